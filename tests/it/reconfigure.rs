//! What operators order through the chain, with the commands that they use.

use crate::network::{TestNetwork, data, run, told};

/// Runs `reconfigure`, or for what every order has in common `order`, with these arguments.
fn reconfigure(arguments: &[&str]) -> (i32, String, String) {
    let command = if ["approve", "submit"].contains(&arguments[0]) { "order" } else { "reconfigure" };
    let output = run(&[&[command], arguments].concat());
    let (code, talk) = told(&output);
    (code, data(&output), talk)
}

/// Operators hand over to two others, both of whom must approve from then on; without them, or with what is no order, nothing changes.
#[test]
fn operators_hand_over_to_others_who_must_then_approve() {
    let network = TestNetwork::start();
    let path = |name: &str| network.path(name).to_str().unwrap().to_owned();
    let (node, first, client) = (network.url(1), path("operator.key"), path("client.key"));
    let keys: Vec<String> = ["second.key", "third.key"]
        .iter()
        .map(|name| data(&run(&["keygen", &path(name)])).trim_end().to_owned())
        .collect();
    let (_, shown, _) = reconfigure(&["show", "--node", node]);
    assert!(shown.starts_with("epoch 0 since block 1\n") && shown.contains("\n1 of these operators"), "{shown}");

    let order = path("order.json");
    let draft = ["operators", "--node", node, "--keys", &keys.join(","), "--needed", "2", "--out", &order];
    assert_eq!(reconfigure(&draft).0, 0);
    let (code, _, talk) = reconfigure(&draft);
    assert!(code == 6 && talk.contains("exists: nothing is overwritten"), "{talk}");
    let submit = ["submit", &order, "--key", &client, "--node", node];
    let (code, _, talk) = reconfigure(&submit);
    assert!(code == 6 && talk.contains("approved by 0 operators, 1 are needed"), "{talk}");
    let (code, shown, _) = reconfigure(&["approve", &order, "--key", &first]);
    assert!(code == 0 && shown.contains("2 of these operators must approve") && shown.contains(&keys[1]), "{shown}");
    // The chain is idle: nobody but the order itself brings it to the boundary.
    let (code, shown, talk) = reconfigure(&submit);
    assert!(code == 0 && shown.ends_with("epoch 1 has begun\n"), "{shown}{talk}");
    let (_, shown, _) = reconfigure(&["show", "--node", network.url(2)]);
    assert!(shown.starts_with("epoch 1 since block ") && shown.contains("2 of these operators"), "{shown}");

    let (code, _, talk) = reconfigure(&submit);
    assert!(code == 6 && talk.contains("ordered for epoch 0, this is epoch 1"), "{talk}");
    let back = path("back.json");
    let draft = ["operators", "--node", node, "--keys", &keys[0], "--out", &back];
    assert_eq!(reconfigure(&draft).0, 0);
    let submit = ["submit", &back, "--key", &client, "--node", node];
    assert_eq!(reconfigure(&["approve", &back, "--key", &path("second.key")]).0, 0);
    assert_eq!(reconfigure(&["approve", &back, "--key", &path("second.key")]).0, 0, "once more, and counted once");
    let (code, _, talk) = reconfigure(&submit);
    assert!(code == 6 && talk.contains("approved by 1 operators, 2 are needed"), "{talk}");
    assert_eq!(reconfigure(&["approve", &back, "--key", &path("third.key")]).0, 0);
    assert_eq!(reconfigure(&submit).0, 0);

    let hold = path("hold.json");
    let (code, _, talk) = reconfigure(&["hold", "nowhere", "--holder", node, "--node", node, "--out", &hold]);
    assert!(code == 6 && talk.contains("not of nowhere"), "{talk}");
    let (code, _, talk) = reconfigure(&["approve", &client, "--key", &first]);
    assert!(code == 78 && talk.contains("no order of operators"), "{talk}");
    let (code, _, talk) = reconfigure(&["show", "--node", "http://127.0.0.1:1"]);
    assert_eq!(code, 69, "{talk}");
}
