//! The OpenAPI document says what nodes serve: the same paths, and answers with the same fields.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};

use crate::network::{TestNetwork, data, run, sound, told};
use crate::schema::faults;

fn file(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

fn document() -> Value {
    serde_json::from_str(&file("docs/protocol/openapi.json")).unwrap()
}

/// The paths that the routers name.
fn routed() -> BTreeSet<String> {
    let sources = ["src/api/mod.rs", "src/api/auth.rs", "src/api/candidate.rs", "actors/console/src/http/mod.rs"];
    let text = sources.map(file).concat();
    let quoted = text.split('"').skip(1).step_by(2).map(str::to_owned);
    quoted
        .filter(|path| ["/api/v1/", "/livez", "/readyz", "/metrics"].iter().any(|begin| path.starts_with(begin)))
        .collect()
}

#[test]
fn every_path_is_told_and_none_that_there_is_not() {
    let document = document();
    let told: BTreeSet<_> = document["paths"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(told, routed());
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let named: Vec<_> = operation["parameters"].as_array().into_iter().flatten().collect();
            let in_path = named.iter().filter(|parameter| parameter["in"] == "path").count();
            assert_eq!(in_path, path.matches('{').count(), "{method} {path}");
            assert!(operation["summary"].is_string() && operation["responses"]["200"].is_object(), "{method} {path}");
        }
    }
}

/// The table of actions in the protocol's page says what nodes have, with their roles: a member's by asking it, an auth node's by its source.
fn the_table_of_actions_is_true(offered: &Value) {
    let page = file("docs/protocol/console.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once(" | "));
    let mut told = std::collections::BTreeMap::new();
    for (names, rest) in rows {
        let role = rest.split(" | ").next().unwrap();
        told.extend(names.split(['`', ',', ' ']).filter(|name| !name.is_empty()).map(|name| (name, role)));
    }
    for action in offered["actions"].as_array().unwrap() {
        let (name, role) = (action["name"].as_str().unwrap(), action["role"].as_str().unwrap());
        assert_eq!(told.remove(name), Some(role), "{name}");
    }
    let of_auth = file("src/node/actions/members.rs");
    assert!(told.len() == 3 && told.keys().all(|name| of_auth.contains(&format!("\"{name}\""))), "{told:?}");
}

/// A read that is to see a block waits for it, and says so when it does not come.
fn reads_wait_for_a_block(network: &TestNetwork) {
    let query = |height: u64| {
        let height = height.to_string();
        let arguments = ["query", "--title", "test", "--key", "k", "--node", network.url(0), "-o", "json"];
        run(&[&arguments[..], &["--at-least", &height]].concat())
    };
    let status = sound(&["status", "--node", network.url(0), "-o", "json"]);
    let status: Value = serde_json::from_str(&status).unwrap();
    let next = status[0]["height"].as_u64().unwrap() + 1;
    let answered = std::thread::scope(|scope| {
        let waits = scope.spawn(|| query(next));
        let put = network.submit(&[r#"{"put":{"title":"test","key":"k","value":"w"}}"#]);
        assert_eq!(told(&put).0, 0, "{}", told(&put).1);
        waits.join().unwrap()
    });
    assert_eq!(told(&answered).0, 0, "{}", told(&answered).1);
    let answer: Value = serde_json::from_str(&data(&answered)).unwrap();
    assert!(answer["height"].as_u64().unwrap() >= next, "{answer}");
    let (code, why) = told(&query(99_999_999));
    assert!(code == 5 && why.contains("and not to 99999999"), "{code} {why}");
}

#[actix_web::test]
async fn answers_of_a_node_have_the_fields_that_are_told() {
    let network = TestNetwork::start();
    let output = network.submit(&[r#"{"put":{"title":"test","key":"k","value":"v"}}"#]);
    assert_eq!(told(&output).0, 0, "{}", told(&output).1);
    let submitted: Value = serde_json::from_str(data(&output).lines().next().unwrap()).unwrap();
    let id = submitted["id"].as_str().unwrap();
    let config = network.config(1);
    assert_eq!(told(&run(&["console-token", "-c", config.to_str().unwrap()])).0, 0);
    let (line, file) = (network.write("line", "a\n"), network.key());
    let (line, file) = (line.to_str().unwrap(), file.to_str().unwrap());
    sound(&["publish", "rates", "--node", network.url(0), "--key", file, "--file", line]);
    let key = standin_foundation::SecretKey::read(&network.key()).unwrap().public();
    let source = format!("/api/v1/topics/rates/sources/{key}");
    let document = document();
    let asked = [
        ("get", "/api/v1/status", "/api/v1/status", Value::Null),
        ("get", "/api/v1/cluster", "/api/v1/cluster", Value::Null),
        ("get", "/api/v1/genesis", "/api/v1/genesis", Value::Null),
        ("get", "/api/v1/members", "/api/v1/members", Value::Null),
        ("get", "/api/v1/clients", "/api/v1/clients", Value::Null),
        ("get", "/api/v1/epochs", "/api/v1/epochs", Value::Null),
        ("get", "/api/v1/grants", "/api/v1/grants", Value::Null),
        ("get", "/api/v1/blocks", "/api/v1/blocks?from=1&limit=2", Value::Null),
        ("get", "/api/v1/blocks/{height}", "/api/v1/blocks/latest", Value::Null),
        ("get", "/api/v1/transactions/{id}", &format!("/api/v1/transactions/{id}"), Value::Null),
        ("get", "/api/v1/query", "/api/v1/query?title=test&key=k", Value::Null),
        ("get", "/api/v1/query", "/api/v1/query?title=test&key=k&at_least=1", Value::Null),
        ("get", "/api/v1/actions", "/api/v1/actions", Value::Null),
        ("get", "/api/v1/topics", "/api/v1/topics", Value::Null),
        ("get", "/api/v1/topics/{topic}", "/api/v1/topics/rates", Value::Null),
        ("get", "/api/v1/topics/{topic}/holdings", "/api/v1/topics/rates/holdings", Value::Null),
        ("get", "/api/v1/topics/{topic}/frames/{which}", "/api/v1/topics/rates/frames/1", Value::Null),
        ("get", "/api/v1/topics/{topic}/sources/{key}", &source, Value::Null),
        (
            "post",
            "/api/v1/actions/{action}/preview",
            "/api/v1/actions/read-only/preview",
            json!({ "args": { "set": "on" } }),
        ),
    ];
    for (method, path, url, body) in asked {
        let client = awc::Client::builder().timeout(std::time::Duration::from_secs(30)).finish();
        let url = format!("{}{url}", network.url(0));
        let mut answer = match method {
            "get" => client.get(url).send().await.unwrap(),
            _ => client.post(url).send_json(&body).await.unwrap(),
        };
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
        let said: Value = serde_json::from_slice(&answer.body().limit(1 << 24).await.unwrap()).unwrap();
        let schema = &document["paths"][path][method]["responses"]["200"]["content"]["application/json"]["schema"];
        assert!(schema.is_object(), "{path}");
        assert_eq!(faults(&document, schema, &said, path), Vec::<String>::new());
        if path == "/api/v1/actions" {
            the_table_of_actions_is_true(&said);
        }
    }
    reads_wait_for_a_block(&network);
    let client = awc::Client::default();
    let mut refused = client.get(format!("{}/api/v1/blocks/99999", network.url(0))).send().await.unwrap();
    let said: Value = serde_json::from_slice(&refused.body().await.unwrap()).unwrap();
    assert_eq!(faults(&document, &document["components"]["schemas"]["Error"], &said, "error"), Vec::<String>::new());
}
