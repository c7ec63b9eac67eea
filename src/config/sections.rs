//! What each section of the configuration means.

use std::net::SocketAddr;
use std::path::PathBuf;

use standin_auth::Config as AuthConfig;
use standin_cluster::Config as ClusterConfig;
use standin_consensus::Config as ConsensusConfig;
use standin_etcd::Config as EtcdConfig;
use standin_foundation::ClusterId;
use standin_publisher::Config as PublisherConfig;

use super::reader::{Reader, Value};
use super::{AuthSection, ConsoleSection, NodeConfig, NodeRole};

impl Reader<'_> {
    pub(super) fn node_config(&mut self) -> NodeConfig {
        let defaults = ConsensusConfig::default();
        let view_timeout_ms = self.number("consensus", "view_timeout_ms", 50..=8_000, Some(defaults.view_timeout_ms));
        // What a status brings back, a lost vote or an offered batch, must come before the view is given up.
        let status_max = (view_timeout_ms / 4).max(10);
        let consensus = ConsensusConfig {
            view_timeout_ms,
            status_interval_ms: self.number("consensus", "status_interval_ms", 10..=status_max, Some(status_max)),
            in_flight_max: self.number("consensus", "in_flight_max", 1..=128, Some(defaults.in_flight_max)),
            linger_ms: self.number("consensus", "linger_ms", 0..=1_000, Some(defaults.linger_ms)),
            idle_checkpoint_ms: self.number(
                "consensus",
                "idle_checkpoint_ms",
                10..=600_000,
                Some(defaults.idle_checkpoint_ms),
            ),
            ..defaults
        };
        let role = self.role();
        NodeConfig {
            name: self.text("node", "name", Some("node")),
            role,
            site: self.text("node", "site", Some("")),
            cluster_name: self.cluster_name(),
            auth: (role == NodeRole::Auth).then(|| self.auth()),
            cluster: self.cluster(),
            key_file: self.file("node", "key_file"),
            genesis_file: self.file("node", "genesis_file"),
            data_dir: self.file("node", "data_dir"),
            bridge_listen: self.address("bridge", "listen"),
            certificate_file: self.file("bridge", "certificate_file"),
            certificate_key_file: self.file("bridge", "certificate_key_file"),
            http_listen: self.loopback("http", "listen"),
            requests_per_second: self.number("http", "requests_per_second", 0..=1_000_000, Some(5_000)) as u32,
            console: ConsoleSection {
                actions: self.flag("console", "actions", false),
                operators: self.keys("console", "operators"),
                url: self.page_url(),
            },
            peers: self.all_peers(),
            consensus,
            segment_bytes: self.number("store", "segment_bytes", 65_536..=1 << 32, Some(64 << 20)),
            log_bytes_max: self.number("store", "log_bytes_max", 65_536..=1 << 40, Some(256 << 20)),
            reserve_bytes: self.number("store", "reserve_bytes", 0..=1 << 50, Some(512 << 20)),
            index_transactions: self.flag("store", "index_transactions", true),
            keep_blocks: Some(self.number("store", "keep_blocks", 0..=1 << 40, Some(0))).filter(|keep| *keep > 0),
            publisher: PublisherConfig {
                lease_ms: self.number("publisher", "lease_ms", 100..=60_000, Some(1_000)) as u32,
                ..PublisherConfig::default()
            },
            competes: self.flag("publisher", "competes", true),
            lock_store: self.in_etcd("publisher", "lock_store", "chain").then(|| self.etcd()),
            journal_bytes: self.number("publisher", "journal_bytes", 512 << 10..=1 << 40, Some(256 << 20)),
            verify_threads: self.number("limits", "verify_threads", 0..=256, Some(0)) as usize,
            log_level: self.text("log", "level", Some("info")),
            log_json: self.log_json(),
        }
    }

    fn role(&mut self) -> NodeRole {
        match self.value("node", "role", Some(Value::Text("member".to_owned()))) {
            None => NodeRole::Member,
            Some((Value::Text(text), place)) => text.parse().unwrap_or_else(|_| {
                self.fault(place, "node", "role", format!("found \"{text}\", \"member\" or \"auth\" is needed"));
                NodeRole::Member
            }),
            Some((other, place)) => {
                self.fault(place, "node", "role", format!("found {other}, \"member\" or \"auth\" is needed"));
                NodeRole::Member
            }
        }
    }

    fn cluster_name(&mut self) -> Option<ClusterId> {
        self.value("node", "cluster", None)?;
        self.parsed("node", "cluster", "the name of a cluster of the genesis")
    }

    fn auth(&mut self) -> AuthSection {
        let defaults = AuthConfig::default();
        AuthSection {
            key_file: self.file("auth", "key_file"),
            successor: self.flag("auth", "successor", false),
            config: AuthConfig {
                age_max_ms: self.number("auth", "age_max_ms", 100..=3_600_000, Some(defaults.age_max_ms)),
                live_ms: self.number("auth", "live_ms", 20..=60_000, Some(defaults.live_ms)),
                reports_window_ms: self.number(
                    "auth",
                    "reports_window_ms",
                    1_000..=86_400_000,
                    Some(defaults.reports_window_ms),
                ),
                split_preference: self.names("auth", "split_preference"),
                split_after_ms: self.number("auth", "split_after_ms", 100..=600_000, Some(defaults.split_after_ms)),
            },
            etcd: self.in_etcd("auth", "register", "log").then(|| self.etcd()),
        }
    }

    /// Where the console's page is opened, without a slash at the end.
    fn page_url(&mut self) -> Option<String> {
        let url = self.text("console", "url", Some(""));
        let place = self.place_of_last();
        let host = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
        if !url.is_empty() && host.is_none_or(|host| host.is_empty() || host.contains(['#', '?', ' '])) {
            let what = format!("found \"{url}\", an address such as \"https://ledger.example\" is needed");
            self.fault(place, "console", "url", what);
        }
        Some(url.trim_end_matches('/').to_owned()).filter(|url| !url.is_empty())
    }

    fn log_json(&mut self) -> bool {
        match self.value("log", "format", Some(Value::Text("text".to_owned()))) {
            None => false,
            Some((Value::Text(text), _)) if text == "text" || text == "json" => text == "json",
            Some((found, place)) => {
                self.fault(place, "log", "format", format!("found {found}, \"text\" or \"json\" is needed"));
                false
            }
        }
    }

    /// Whether a key says `"etcd"`, and not what it says by itself.
    fn in_etcd(&mut self, section: &'static str, key: &'static str, by_itself: &str) -> bool {
        match self.value(section, key, Some(Value::Text(by_itself.to_owned()))) {
            None => false,
            Some((Value::Text(text), _)) if text == by_itself => false,
            Some((Value::Text(text), _)) if text == "etcd" && cfg!(feature = "etcd") => true,
            Some((Value::Text(text), place)) if text == "etcd" => {
                self.fault(place, section, key, "this program was built without the feature `etcd`");
                false
            }
            Some((found, place)) => {
                self.fault(place, section, key, format!("found {found}, \"{by_itself}\" or \"etcd\" is needed"));
                false
            }
        }
    }

    fn etcd(&mut self) -> EtcdConfig {
        let text = self.text("etcd", "endpoints", None);
        let endpoints: Vec<_> = text.split(',').map(|endpoint| endpoint.trim().to_owned()).collect();
        for endpoint in endpoints.iter().filter(|endpoint| !text.is_empty() && !is_url(endpoint)) {
            let what =
                format!("found \"{endpoint}\", addresses such as \"http://127.0.0.1:2379\" are needed, with commas");
            self.fault(self.path.display().to_string(), "etcd", "endpoints", what);
        }
        let ca_file = self.optional_file("etcd", "ca_file");
        if ca_file.is_none() && endpoints.iter().any(|endpoint| endpoint.starts_with("https:")) {
            self.missing("etcd", "ca_file");
        }
        EtcdConfig {
            endpoints,
            timeout_ms: self.number("etcd", "timeout_ms", 50..=60_000, Some(1_000)),
            ca_file,
            certificate: self.file_pair("certificate_file", "certificate_key_file"),
            user: self.user_and_password(),
        }
    }

    fn file_pair(&mut self, first: &'static str, second: &'static str) -> Option<(PathBuf, PathBuf)> {
        match (self.optional_file("etcd", first), self.optional_file("etcd", second)) {
            (Some(first), Some(second)) => Some((first, second)),
            (None, None) => None,
            (one, _) => {
                self.missing("etcd", if one.is_none() { first } else { second });
                None
            }
        }
    }

    fn user_and_password(&mut self) -> Option<(String, PathBuf)> {
        let user = self.text("etcd", "user", Some(""));
        let file = self.optional_file("etcd", "password_file");
        if !user.is_empty() && file.is_none() {
            self.missing("etcd", "password_file");
        }
        Some((user, file?)).filter(|(user, _)| !user.is_empty())
    }

    fn cluster(&mut self) -> ClusterConfig {
        let defaults = ClusterConfig::default();
        let keep_alive_ms = self.number("cluster", "keep_alive_ms", 5..=10_000, Some(defaults.keep_alive_ms));
        // Two keep-alives may be late before anyone is suspected.
        let least = 2 * keep_alive_ms;
        let default = defaults.suspect_ms.max(3 * keep_alive_ms);
        ClusterConfig {
            keep_alive_ms,
            suspect_ms: self.number("cluster", "suspect_ms", least..=600_000, Some(default)),
            shrink_ms: self.number("cluster", "shrink_ms", least..=600_000, Some(default)),
            grow_after_ms: self.number("cluster", "grow_after_ms", 0..=600_000, Some(defaults.grow_after_ms)),
            mute_ms: self.number("cluster", "mute_ms", least..=600_000, Some(defaults.mute_ms.max(least))),
            min_in_sync: self.number("cluster", "min_in_sync", 1..=8, Some(1)) as usize,
            in_sync: self.number("cluster", "in_sync", 1..=8, Some(8)) as usize,
            pause_ms: defaults.pause_ms.max(least),
            ..defaults
        }
    }

    fn loopback(&mut self, section: &'static str, key: &'static str) -> SocketAddr {
        let address = self.address(section, key);
        if !address.ip().is_loopback() {
            let place = self.path.display().to_string();
            let what = format!("found \"{address}\": plain HTTP is served on loopback only; put a TLS proxy in front");
            self.fault(place, section, key, what);
        }
        address
    }
}

fn is_url(endpoint: &str) -> bool {
    let host = endpoint.strip_prefix("http://").or_else(|| endpoint.strip_prefix("https://"));
    host.is_some_and(|host| host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()))
}
