# Read-only gate: what CI checks.
verify:
    bash .ci/run

# Mends what can be mended by a tool.
fix:
    cargo fmt --all
    cargo clippy --release --workspace --all-targets --fix --allow-dirty

# Everything, also what does not fit into CI.
full: verify
    cargo run --release -p standin-simulator --bin seeds -- --seeds 10000
    cargo run --release -p standin-simulator --bin seeds -- --mutations --seeds 1000
    cargo run --release -p standin-simulator --bin seeds -- --protocol clusters --seeds 20000
    cargo run --release -p standin-simulator --bin seeds -- --protocol clusters --mutations --seeds 4000
    cargo run --release -p standin-simulator --bin seeds -- --protocol publication --seeds 100000
    cargo run --release -p standin-simulator --bin seeds -- --protocol publication --mutations --seeds 1000
    cargo run --release -p standin-simulator --bin model -- --faulty --near 1000
    cargo run --release -p standin-simulator --bin model -- --mutations
    cargo run --release -- drill run all --layout four-seats --json
    cargo run --release -- drill run all --layout two-sites --json
    cargo run --release -- drill run all --layout four-sites --json
    cargo run --release -- drill run all --layout four-sites-plus --json
    cargo run --release -- drill run all --layout four-sites-etcd --json
    cargo run --release -- drill run all --layout publishers --json
    cargo run --release -- demo --layout four-seats --for 20 --rate 500 --json
    cargo run --release -- demo --for 20 --rate 500 --json
    cargo bench --bench failover
    cargo bench --bench publication
    cargo bench --bench locks
    if command -v cargo-fuzz; then just fuzz 300; else echo "cargo-fuzz is not installed: skipped"; fi

# All decoders under libFuzzer for so many seconds; needs cargo-fuzz and a C++ compiler.
fuzz seconds="60":
    cd tests/fuzz/libfuzzer && RUSTC_BOOTSTRAP=1 cargo fuzz run --fuzz-dir . any -- -max_total_time={{seconds}}

# One seed again, of `consensus`, `clusters` or `publication`.
seed number protocol="consensus":
    cargo run --release -p standin-simulator --bin seeds -- --protocol {{protocol}} --replay {{number}}
