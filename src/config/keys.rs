//! Every key of a node's configuration, in one table: what it means, what it takes, and what it is without being set. The reader, `config explain`
//! and `docs/configuration.md` say the same, and tests compare them.

/// A key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Key {
    /// Section and key, with a dot.
    pub name: &'static str,
    /// What it takes.
    pub takes: &'static str,
    /// What it is where it is not set, as it would be written; none where it must be set.
    pub default: Option<&'static str>,
    /// What it means.
    pub about: &'static str,
}

const fn key(name: &'static str, takes: &'static str, default: Option<&'static str>, about: &'static str) -> Key {
    Key { name, takes, default, about }
}

const FILE: &str = "a path, relative to the configuration's folder";
const OPTIONAL_FILE: &str = "a path, relative to the configuration's folder, or \"\" for none";
const ADDRESS: &str = "an address and a port";
const KEYS_WITH_COMMAS: &str = "public keys, with commas";
const FLAG: &str = "true or false";

/// All keys, by section.
pub const KEYS: &[Key] = &[
    key("node.name", "a text", Some("\"node\""), "The node's name, in logs, in the console and in answers."),
    key(
        "node.role",
        "\"member\" or \"auth\"",
        Some("\"member\""),
        "What the node is: a member of a cluster, or an auth node that grants seats.",
    ),
    key(
        "node.site",
        "a text",
        Some("\"\""),
        "Where an auth node stands, for the console: `witness` without it. A member's site is what the genesis or the auth node's register says.",
    ),
    key(
        "node.cluster",
        "a cluster's name",
        None,
        "The cluster of a member that joined after the genesis. A member that the genesis lists needs none.",
    ),
    key(
        "node.key_file",
        FILE,
        None,
        "The node's secret key: its identity towards the others. `standin keygen` makes one.",
    ),
    key("node.genesis_file", FILE, None, "The chain's beginning. All nodes of a chain have the same."),
    key(
        "node.peers_file",
        OPTIONAL_FILE,
        Some("\"\""),
        "The other nodes, in a file that all nodes share: `[[peer]]` tables, as `standin genesis build` writes them. Those of the configuration itself go \
         on top; the node's own is passed over.",
    ),
    key("node.data_dir", FILE, None, "Where the node keeps its log, its store, and what people did at its console."),
    key("bridge.listen", ADDRESS, None, "Where other nodes reach this one, over mutual TLS."),
    key(
        "bridge.certificate_file",
        FILE,
        None,
        "The certificate of the bridge, in PEM. It may sign itself: the nodes know each other by their keys.",
    ),
    key("bridge.certificate_key_file", FILE, None, "The certificate's private key, in PEM."),
    key(
        "http.listen",
        "an address on loopback, and a port",
        None,
        "Where HTTP is served: health, metrics, `/api/v1` and the console. Put a proxy with TLS in front for others.",
    ),
    key(
        "http.requests_per_second",
        "0 to 1000000",
        Some("5000"),
        "Requests that one address may make in a second; 0 for any number. Health and metrics do not count. Behind a proxy all clients have one address.",
    ),
    key(
        "console.actions",
        FLAG,
        Some("false"),
        "Whether the node carries out what operators order: at the page by a login, by command with a key.",
    ),
    key(
        "console.url",
        "an address that begins with https:// or http://, or \"\"",
        Some("\"\""),
        "Where people open the console: that of the proxy with TLS. `standin console-token` makes links to it; without it they go to `http.listen`. A login \
         over https has a cookie that goes nowhere else.",
    ),
    key("console.operators", KEYS_WITH_COMMAS, Some("\"\""), "Whoever has one of these keys may order by command."),
    key(
        "consensus.view_timeout_ms",
        "50 to 8000, in ms",
        Some("1000"),
        "Without progress for so long, a view is given up. It grows by half with each view in a row, up to 8000.",
    ),
    key(
        "consensus.status_interval_ms",
        "10 to a quarter of view_timeout_ms, in ms",
        Some("250"),
        "How often a seat tells the others where it stands.",
    ),
    key("consensus.in_flight_max", "1 to 128", Some("16"), "Proposals that may be under way at one time."),
    key(
        "consensus.linger_ms",
        "0 to 1000, in ms",
        Some("2"),
        "The least time that a transaction waits for others to go into its batch.",
    ),
    key(
        "consensus.idle_checkpoint_ms",
        "10 to 600000, in ms",
        Some("1000"),
        "With nothing to order for so long, a checkpoint is made, so that receipts can be proven.",
    ),
    key(
        "cluster.keep_alive_ms",
        "5 to 10000, in ms",
        Some("50"),
        "How often members of a cluster tell each other that they live.",
    ),
    key(
        "cluster.suspect_ms",
        "twice keep_alive_ms to 600000, in ms",
        Some("150"),
        "A holder that is not heard for so long is suspected.",
    ),
    key(
        "cluster.shrink_ms",
        "twice keep_alive_ms to 600000, in ms",
        Some("150"),
        "A member that acknowledges nothing for so long is left out of the in-sync set.",
    ),
    key(
        "cluster.grow_after_ms",
        "0 to 600000, in ms",
        Some("500"),
        "A member that keeps up for so long is taken into the in-sync set.",
    ),
    key(
        "cluster.mute_ms",
        "twice keep_alive_ms to 600000, in ms",
        Some("400"),
        "A holder that says for so long that it cannot speak, or hears too few seats, is suspected.",
    ),
    key(
        "cluster.min_in_sync",
        "1 to 8",
        Some("1"),
        "The holder leaves out no member below this number: with more, a seat stalls rather than stand alone.",
    ),
    key("cluster.in_sync", "1 to 8", Some("8"), "Members that are taken into the in-sync set."),
    key(
        "auth.key_file",
        FILE,
        None,
        "The key that signs grants; the genesis names its public half. Auth nodes that share a register share it.",
    ),
    key(
        "auth.successor",
        FLAG,
        Some("false"),
        "The chain has not named the key yet: the auth node waits until it does.",
    ),
    key(
        "auth.age_max_ms",
        "100 to 3600000, in ms",
        Some("3000"),
        "A holder that is not heard for so long has lost its seat to whoever asks.",
    ),
    key(
        "auth.live_ms",
        "20 to 60000, in ms",
        Some("200"),
        "Whoever was heard within this time is asked before a holder is replaced.",
    ),
    key(
        "auth.reports_window_ms",
        "1000 to 86400000, in ms",
        Some("60000"),
        "Reports of a wrong result count together if they come within this time.",
    ),
    key(
        "auth.split_preference",
        "names of sites, with commas",
        Some("\"\""),
        "When the sites lose each other and only the auth node hears them, clusters move to the first of these.",
    ),
    key("auth.split_after_ms", "100 to 600000, in ms", Some("2000"), "And for how long they must have."),
    key(
        "auth.register",
        "\"log\" or \"etcd\"",
        Some("\"log\""),
        "Where the register of grants stands: in the node's own folder, or in an etcd that several auth nodes share.",
    ),
    key(
        "etcd.endpoints",
        "addresses such as \"http://127.0.0.1:2379\", with commas",
        None,
        "The etcd. Needed where `auth.register` or `publisher.lock_store` is \"etcd\".",
    ),
    key(
        "etcd.timeout_ms",
        "50 to 60000, in ms",
        Some("1000"),
        "A request that is not answered for so long is given up.",
    ),
    key(
        "etcd.ca_file",
        OPTIONAL_FILE,
        Some("\"\""),
        "The certificate by which the etcd's is judged. Needed for https.",
    ),
    key("etcd.certificate_file", OPTIONAL_FILE, Some("\"\""), "The node's certificate towards the etcd."),
    key("etcd.certificate_key_file", OPTIONAL_FILE, Some("\"\""), "Its private key."),
    key("etcd.user", "a text", Some("\"\""), "The etcd's user; \"\" for none."),
    key("etcd.password_file", OPTIONAL_FILE, Some("\"\""), "A file with the user's password."),
    key("store.segment_bytes", "65536 to 4294967296, in bytes", Some("67108864"), "Size of a file of the durable log."),
    key(
        "store.log_bytes_max",
        "65536 to 1099511627776, in bytes",
        Some("268435456"),
        "The log is cut when it has grown to this, as soon as a checkpoint allows it.",
    ),
    key(
        "store.reserve_bytes",
        "0 to 1125899906842624, in bytes",
        Some("536870912"),
        "What must stay free on the store's disk: the node stops in order before that is touched.",
    ),
    key("store.index_transactions", FLAG, Some("true"), "Whether transactions can be looked up by id."),
    key(
        "store.keep_blocks",
        "0 to 1099511627776, in blocks",
        Some("0"),
        "The newest blocks that are kept; older ones are forgotten, with their transactions and receipts. 0 for all. Never fewer than the chain needs: its \
         replay window and four windows of the consensus.",
    ),
    key(
        "publisher.lease_ms",
        "100 to 60000, in ms",
        Some("1000"),
        "The lease of a topic's lock: a publisher that is frozen or cut off loses it so long after its last renewal. One that is killed loses it at once.",
    ),
    key(
        "publisher.competes",
        FLAG,
        Some("true"),
        "Whether the node competes for locks of topics: one that does not serves terminals what others publish. Others do not know that, and give it 5 ms each time to be faster.",
    ),
    key(
        "publisher.lock_store",
        "\"chain\" or \"etcd\"",
        Some("\"chain\""),
        "Where the locks of topics stand for which operators have ordered `topic set --outside`: in the etcd of the section [etcd]. All other locks stand on the chain.",
    ),
    key(
        "publisher.journal_bytes",
        "524288 to 1099511627776, in bytes",
        Some("268435456"),
        "What the node keeps of all topics, to serve terminals that were away. The oldest goes first.",
    ),
    key("limits.verify_threads", "0 to 256", Some("0"), "Threads that check signatures; 0 for one a core."),
    key(
        "log.level",
        "a filter such as \"info\" or \"standin_consensus=debug,info\"",
        Some("\"info\""),
        "What is logged. `standin log-level` changes it while the node runs; SIGHUP reads it anew.",
    ),
    key("log.format", "\"text\" or \"json\"", Some("\"text\""), "How a line of the log looks."),
];

/// The key with this name, or the one that is nearest to it.
pub fn find(name: &str) -> Result<&'static Key, &'static str> {
    let found = KEYS.iter().find(|key| key.name == name);
    let nearest =
        || KEYS.iter().min_by_key(|key| strsim::damerau_levenshtein(key.name, name)).map_or("", |key| key.name);
    found.ok_or_else(nearest)
}

/// All of it, as `docs/configuration.md`.
pub fn as_markdown() -> String {
    let mut text = String::from(
        "# Configuration\n\nA node reads one TOML file, and then the environment: `STANDIN__SECTION__KEY` goes on top of it. Unknown keys are errors, and all \
         faults are told at once, with file, line and column. `standin config check -c NODE.toml` looks at a file without starting anything, `standin config explain KEY` \
         tells what is told here.\n\nThe other nodes stand in `[[peer]]` tables, one for each: `key` (its public key), `address` (host and port of its bridge), \
         and `role` (\"auth\" for an auth node); or in a file that all nodes share, `node.peers_file`.\n",
    );
    let mut section = "";
    for key in KEYS {
        let own = key.name.split_once('.').map_or(key.name, |(section, _)| section);
        if own != section {
            section = own;
            text += &format!("\n## [{section}]\n\n| key | takes | without it | what |\n|---|---|---|---|\n");
        }
        let name = key.name.split_once('.').map_or(key.name, |(_, name)| name);
        let default = key.default.map_or_else(|| "–".to_owned(), |default| format!("`{default}`"));
        text += &format!("| `{name}` | {} | {default} | {} |\n", key.takes, key.about);
    }
    text
}
