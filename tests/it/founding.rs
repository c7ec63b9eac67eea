//! A consortium that begins, and decides: companies that make their own keys, a genesis of what they publish, clients with roles, orders that several
//! operators approve.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use standin::ports::free_addresses;
use tempfile::TempDir;

use crate::network::{data, refused, run, sound, standin, told};

/// A host: a folder that nothing leaves but what the test copies, and the node that runs there.
struct Host {
    name: &'static str,
    url: String,
    node: Option<Child>,
}

/// Four banks with a cluster each, and a witness with the auth node.
struct Consortium {
    folder: TempDir,
    hosts: Vec<Host>,
}

impl Drop for Consortium {
    fn drop(&mut self) {
        for node in self.hosts.iter_mut().filter_map(|host| host.node.as_mut()) {
            let _ = node.kill();
            let _ = node.wait();
        }
    }
}

impl Consortium {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Makes the keys of all nodes, each on its host.
    fn with_own_keys() -> Self {
        let mut consortium = Self { folder: tempfile::tempdir().unwrap(), hosts: Vec::new() };
        let addresses = free_addresses(10, &[]);
        for (name, ports) in ["a1", "b1", "c1", "d1", "w"].into_iter().zip(addresses.chunks(2)) {
            let (bridge, http) = (ports[0].to_string(), ports[1].to_string());
            let folder = consortium.text(name);
            let mut arguments = vec!["init", &folder, "--name", name, "--address", &bridge, "--http", &http];
            match name {
                "w" => arguments.extend(["--role", "auth"]),
                _ => arguments.extend(["--role", "member", "--cluster", &name[..1], "--site", name]),
            }
            let output = run(&arguments);
            assert_eq!(told(&output).0, 0, "{}", told(&output).1);
            assert_eq!(data(&output), fs::read_to_string(consortium.path(name).join("descriptor.toml")).unwrap());
            consortium.hosts.push(Host { name, url: format!("http://{http}"), node: None });
        }
        consortium
    }

    fn descriptors(&self) -> Vec<String> {
        self.hosts.iter().map(|host| self.text(&format!("{}/descriptor.toml", host.name))).collect()
    }

    fn start(&mut self) {
        for index in 0..self.hosts.len() {
            let name = self.hosts[index].name;
            for file in ["genesis.toml", "peers.toml"] {
                fs::copy(self.path("public").join(file), self.path(name).join(file)).unwrap();
            }
            self.hosts[index].node = Some(start(&self.path(name)));
        }
        for host in &self.hosts {
            wait_until(&format!("{} is ready", host.name), || told(&run(&["health", "--node", &host.url])).0 == 0);
        }
    }

    fn url(&self, name: &str) -> &str {
        &self.hosts.iter().find(|host| host.name == name).unwrap().url
    }
}

fn start(folder: &Path) -> Child {
    let log = File::create(folder.join("log.txt")).unwrap();
    let config = folder.join("node.toml");
    standin().args(["run", "--die-with-parent", "-c", config.to_str().unwrap()]).stderr(log).spawn().unwrap()
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(30), "{what}: not within 30 s");
        std::thread::yield_now();
    }
}

fn keygen(path: &str) -> String {
    data(&run(&["keygen", path])).trim_end().to_owned()
}

#[test]
fn a_consortium_begins_with_keys_that_never_left_their_hosts_and_decides_together() {
    let mut consortium = Consortium::with_own_keys();
    let operators: Vec<_> = ["o1", "o2", "o3"].map(|name| keygen(&consortium.text(name))).into();
    let (client, slow) = (keygen(&consortium.text("client")), keygen(&consortium.text("slow")));
    let stranger = keygen(&consortium.text("stranger"));

    // What leaves the hosts holds no secret, and cannot be changed on the way.
    let descriptors = consortium.descriptors();
    for (host, descriptor) in consortium.hosts.iter().zip(&descriptors) {
        let secret = fs::read_to_string(consortium.path(host.name).join("node.key")).unwrap();
        assert!(!fs::read_to_string(descriptor).unwrap().contains(secret.trim()), "{descriptor}");
    }
    let forged = consortium.text("forged.toml");
    fs::write(&forged, fs::read_to_string(&descriptors[0]).unwrap().replace("\"a\"", "\"b\"")).unwrap();

    let (operators, clients) = (operators.join(","), [format!("{client}:submit+read"), format!("{slow}:submit:5")]);
    let public = consortium.text("public");
    let build = |out: &str, descriptors: &[String]| {
        let options = ["--out", out, "--chain", "consortium", "--time", "1700000000000", "--listed"];
        let people = ["--operators", &operators, "--needed", "2", "--client", &clients[0], "--client", &clients[1]];
        let descriptors = descriptors.iter().map(String::as_str);
        let all: Vec<&str> = ["genesis", "build"].into_iter().chain(options).chain(people).chain(descriptors).collect();
        run(&all)
    };
    let (code, talk) = told(&build(&public, std::slice::from_ref(&forged)));
    assert!(code == 78 && talk.contains("not signed by its key"), "{talk}");
    let digest = data(&build(&public, &descriptors));
    let digest = digest.trim_end();
    let mut turned = descriptors.clone();
    turned.reverse();
    assert_eq!(data(&build(&consortium.text("again"), &turned)).trim_end(), digest, "whoever builds it gets the same");
    let same =
        |file: &str| [public.as_str(), &consortium.text("again")].map(|at| fs::read(Path::new(at).join(file)).unwrap());
    assert!(["genesis.toml", "peers.toml"].into_iter().map(same).all(|[one, other]| one == other));

    let (file, peers) = (format!("{public}/genesis.toml"), format!("{public}/peers.toml"));
    let own = descriptors.join(",");
    let shown = sound(&["genesis", "check", &file, "--descriptor", &own, "--peers", &peers, "--digest", digest]);
    assert!(shown.contains("seat 3: cluster d") && shown.contains("2 of these operators"), "{shown}");
    refused(&["genesis", "check", &file, "--descriptor", &forged], 78, "not signed by its key");
    refused(&["genesis", "check", &file, "--digest", "00"], 3, "another one was told");

    // A second auth node that shares the register has the same key for grants, and changes nothing of the genesis.
    let (front, shared) = (consortium.text("w2"), consortium.text("w/grants.key"));
    let second = ["init", &front, "--role", "auth", "--name", "w2", "--address", "w2.example:7001"];
    sound(&[&second[..], &["--grants-key", &shared]].concat());
    let with_front = [&descriptors[..], &[format!("{front}/descriptor.toml")]].concat();
    assert_eq!(data(&build(&consortium.text("fronts"), &with_front)).trim_end(), digest);
    let other = consortium.text("other");
    sound(&[
        "init",
        &other,
        "--role",
        "member",
        "--name",
        "x",
        "--cluster",
        "a",
        "--site",
        "x",
        "--address",
        "x.example:7001",
    ]);
    refused(&["genesis", "check", &file, "--descriptor", &format!("{other}/descriptor.toml")], 3, "`x` is not in");
    refused(&["config", "check", "-c", &format!("{other}/node.toml")], 78, "`standin genesis build` writes it");
    // Whoever builds it cannot slip a node of its own into another's cluster.
    let slipped = [&descriptors[..], &[format!("{other}/descriptor.toml")]].concat();
    assert_eq!(told(&build(&consortium.text("slipped"), &slipped)).0, 0);
    let slipped = format!("{}/genesis.toml", consortium.text("slipped"));
    refused(&["genesis", "check", &slipped, "--descriptor", &descriptors[0]], 3, "cluster a has the member");

    consortium.start();
    let node = consortium.url("a1").to_owned();
    let put = |key: &str, name: &str| {
        let line = format!("{{\"put\":{{\"title\":\"t\",\"key\":\"{name}\",\"value\":\"1\"}}}}");
        ["submit", "--node", &node, "--key", key, &line].map(str::to_owned)
    };
    let submit = |key: &str, name: &str| run(&put(&consortium.text(key), name).each_ref().map(String::as_str));
    let taken = submit("client", "k1");
    assert_eq!(told(&taken).0, 0, "{}", told(&taken).1);
    let turned_away = submit("stranger", "k2");
    assert_eq!(told(&turned_away).0, 6);
    assert!(data(&turned_away).contains("the chain does not list this client"), "{}", data(&turned_away));

    // Whoever may not read gets nothing; whoever may says who it is.
    let read = ["query", "--node", &node, "--title", "t", "--key", "k1"];
    refused(&read, 77, "the chain does not list this client");
    refused(&[&read[..], &["--as", &consortium.text("slow")]].concat(), 77, "without the role `read`");
    let found = sound(&[&read[..], &["--as", &consortium.text("client")]].concat());
    assert!(found.contains('1'), "{found}");

    // A second's worth at once, and no more.
    let lines: String =
        (0..20).map(|n| format!("{{\"put\":{{\"title\":\"t\",\"key\":\"s{n}\",\"value\":\"1\"}}}}\n")).collect();
    fs::write(consortium.path("lines"), lines).unwrap();
    let many = ["submit", "--node", &node, "--key", &consortium.text("slow"), "--file", &consortium.text("lines")];
    let output = run(&many);
    let (code, talk) = told(&output);
    assert!(code == 6 && talk.contains("5 applied, 15 rejected"), "{talk}");
    assert!(data(&output).contains("allows this client 5 transactions a second"), "{}", data(&output));

    // One operator is not enough, for clients or for members; two are, here and on hosts of their own.
    let list = ["client", "set", "--node", &node, "--roles", "submit", &stranger];
    let key = |names: &[&str]| names.iter().map(|name| consortium.text(name)).collect::<Vec<_>>().join(",");
    refused(&[&list[..], &["--key", &key(&["o1"])]].concat(), 6, "approved by 1 operators, 2 are needed");
    sound(&[&list[..], &["--key", &key(&["o1", "o3"])]].concat());
    assert_eq!(told(&submit("stranger", "k3")).0, 0);
    let listed = sound(&["client", "list", "--node", consortium.url("d1")]);
    assert!(listed.contains(&stranger) && listed.contains("nobody but these"), "{listed}");

    // On a host of its own, to which a configuration was copied, and no key.
    let (second, elsewhere) = (consortium.text("a2"), consortium.path("elsewhere"));
    fs::create_dir(&elsewhere).unwrap();
    for file in ["node.toml", "genesis.toml", "peers.toml"] {
        fs::copy(consortium.path("a1").join(file), elsewhere.join(file)).unwrap();
    }
    let ports = free_addresses(2, &[]);
    let (listen, http) = (ports[0].to_string(), ports[1].to_string());
    let like = elsewhere.join("node.toml").to_str().unwrap().to_owned();
    let newcomer = ["init", &second, "--role", "member", "--like", &like, "--cluster", "a", "--name", "a2"];
    sound(&[&newcomer[..], &["--address", &listen, "--http", &http]].concat());
    let secret = standin_foundation::SecretKey::read(Path::new(&format!("{second}/node.key"))).unwrap();
    let (auth, order, newcomer) = (consortium.url("w"), consortium.text("order.json"), secret.public().to_string());
    let add = ["member", "admit", "a", &newcomer, "--auth", auth, "--address", &listen, "--site", "s2"];
    refused(&[&add[..], &["--key", &key(&["o2"])]].concat(), 6, "approved by 1 operators, 2 are needed");
    sound(&[&add[..], &["--out", &order]].concat());
    sound(&["order", "approve", &order, "--key", &key(&["o1"])]);
    refused(&["order", "submit", &order, "--auth", auth], 6, "approved by 1 operators, 2 are needed");
    let shown = sound(&["order", "approve", &order, "--key", &key(&["o2"])]);
    assert!(shown.contains("site \"s2\"") && shown.contains("signed by 2 keys"), "{shown}");
    sound(&["order", "submit", &order, "--auth", auth]);
    refused(&["order", "submit", &order, "--auth", auth], 6, "have changed since");
    consortium.hosts.push(Host { name: "a2", url: String::new(), node: Some(start(&consortium.path("a2"))) });
    let members = || sound(&["member", "list", "--auth", consortium.url("w")]);
    wait_until("the new member is in sync", || {
        members().lines().any(|line| line.contains("site s2") && line.ends_with(" in sync"))
    });
}
