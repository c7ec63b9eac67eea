use std::collections::BTreeSet;

use standin_foundation::{Digest, Epoch, Height, NodeId, SecretKey, View as ConsensusView};
use standin_ledger::builtin::{Builtin, Operation};
use standin_ledger::transaction::TransactionBody;
use standin_ledger::{
    Batch, Chain, Client, ClientChange, ClientOrder, MemberDescriptor, Membership, Operators, Outcome, Parameters,
    Proposal, SeatDescriptor, SystemTransaction,
};

use super::*;
use crate::frame::Content;
use crate::frame::tests::content;
use crate::ids::Sequence;
use crate::machine::server::Server;
use crate::machine::view::View;
use crate::record;

fn key(n: u8) -> SecretKey {
    SecretKey::from_bytes(&[n; 32]).unwrap()
}

/// Four seats of two members each, of which the operators are two.
fn genesis() -> Genesis {
    let member = |n: u8| MemberDescriptor { key: key(n).public(), priority: 0, site: String::new() };
    let seat =
        |n: u8| SeatDescriptor { cluster: format!("c{n}").parse().unwrap(), members: vec![member(n), member(n + 10)] };
    Genesis {
        chain: "test-topics".parse().unwrap(),
        time_ms: 1_000,
        auth: Some(key(99).public()),
        operators: Operators { keys: vec![key(91).public(), key(92).public()], needed: 2 },
        clients: Default::default(),
        parameters: Parameters { replay_window: 1_000, ..Parameters::default() },
        seats: (1..=4).map(seat).collect(),
        accounts: Vec::new(),
    }
}

struct Net {
    genesis: Arc<Genesis>,
    chain: Chain,
    nonce: u64,
}

impl Net {
    fn new() -> Self {
        let genesis = Arc::new(genesis());
        let machine = Topics::new(Arc::clone(&genesis), Builtin);
        Self { chain: Chain::new(&genesis, Arc::new(machine)), genesis, nonce: 0 }
    }

    fn topic() -> Topic {
        "rates".parse().unwrap()
    }

    /// A block with one transaction: its events, or why it was refused.
    fn carry_out(&mut self, by: u8, title: &str, payload: Vec<u8>) -> Result<Vec<Event>, String> {
        self.nonce += 1;
        let expires = self.chain.height().plus(500);
        let body = TransactionBody { title: title.parse().unwrap(), nonce: self.nonce, expires, payload };
        let transaction = Transaction::unsigned(&key(by).public(), &body).unwrap();
        let batch = Arc::new(Batch::new(vec![transaction.clone()]).unwrap());
        let mut proposal = Proposal::null(self.chain.height().next(), Epoch(0), ConsensusView(0), Seat(0));
        proposal.batches = vec![batch.reference()];
        let block = self.chain.execute(proposal, &[batch]).unwrap();
        match &block.receipts[0].outcome {
            Outcome::Applied(output) => Ok(events_of(&transaction, output)),
            Outcome::Rejected(why) => Err(why.clone()),
            other => panic!("{other:?}"),
        }
    }

    fn push(&mut self, by: u8, nonce: u64, content: Content) -> Result<Event, String> {
        let payload = Push { session: 1, nonce, content }.to_payload();
        self.carry_out(by, "topic.rates", payload).map(|events| events[0].clone())
    }

    fn tell(&mut self, by: u8, instruction: Instruction) -> Result<Vec<Event>, String> {
        self.carry_out(by, PUBLISHER_TITLE, instruction.to_wire().unwrap())
    }

    fn acquire(&mut self, by: u8, after: u64) -> Result<Takeover, String> {
        let acquire =
            Instruction::Acquire { topic: Self::topic(), after: Fence(after), lease_ms: 1_000, outside: None };
        self.tell(by, acquire).map(|events| match events[0] {
            Event::Granted(takeover) => takeover,
            ref other => panic!("{other:?}"),
        })
    }

    fn hold(&mut self, by: u8, fence: u64, renewal: Option<u64>, upto: Option<u64>) -> Vec<Event> {
        let chain_at = |upto| {
            let view = View::of(self.chain.state());
            view.get(Self::topic()).unwrap().checkpoint_at(Sequence(upto), 99).map(|found| found.chain)
        };
        let published = upto.map(|upto| Checkpoint { upto: Sequence(upto), chain: chain_at(upto).unwrap_or_default() });
        let hold = Hold { topic: Self::topic(), fence: Fence(fence), renewal, published };
        self.tell(by, Instruction::Hold(vec![hold])).unwrap()
    }

    fn attest(&mut self, by: u8, fence: u64, ground: Ground) -> Result<Vec<Event>, String> {
        self.tell(by, Instruction::Attest(vec![Attestation { topic: Self::topic(), fence: Fence(fence), ground }]))
    }

    fn order(&mut self, number: u64, changes: Vec<TopicChange>, by: &[u8]) -> Result<Vec<Event>, String> {
        let draft = Approved::draft(TopicOrder { chain: self.genesis.digest(), number, changes });
        let approved = by.iter().fold(draft, |draft, operator| draft.by(&key(*operator)));
        self.tell(77, Instruction::Order(approved))
    }

    fn record(&self) -> TopicRecord {
        record::topic(self.chain.state(), Self::topic()).unwrap()
    }
}

fn refused(events: &[Event]) -> &str {
    match events {
        [Event::Refused { why, .. }] => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_datum_gets_its_place_when_it_enters_and_the_ledger_says_who_published_it_under_which_fence() {
    let mut net = Net::new();
    let Event::Queued { entry, .. } = net.push(50, 0, content(&["a", "b"])).unwrap() else { panic!() };
    assert_eq!((entry.first, entry.last()), (Sequence(1), Sequence(2)));
    net.push(51, 0, content(&["c"])).unwrap();
    assert!(matches!(net.push(50, 0, content(&["a", "b"])), Ok(Event::Known { next_nonce: 2, .. })));
    assert!(matches!(net.push(50, 3, content(&["d"])), Ok(Event::Gap { next_nonce: 2, .. })));

    let takeover = net.acquire(1, 0).unwrap();
    assert_eq!((takeover.fence, takeover.from, takeover.before), (Fence(1), Sequence(1), Digest::ZERO));
    assert!(matches!(net.hold(1, 1, Some(1), Some(2))[..], [Event::Renewed { .. }, Event::Published { .. }]));
    net.tell(1, Instruction::Release { topic: Net::topic(), fence: Fence(1) }).unwrap();
    let takeover = net.acquire(12, 1).unwrap();
    assert_eq!((takeover.fence, takeover.from, takeover.before), (Fence(2), Sequence(3), entry.chain), "behind it");
    net.hold(12, 2, None, Some(3));

    let of = |sequence| record::holding_of(net.chain.state(), Net::topic(), Sequence(sequence));
    let owners = [1, 2, 3, 4].map(|sequence| of(sequence).map(|holding| (holding.fence.0, holding.owner)));
    let (first, second) = (Some((1, key(1).public())), Some((2, key(12).public())));
    assert_eq!(owners, [first, first, second, None]);
    assert_eq!(of(1).unwrap().ended.map(|(reason, _)| reason), Some(Reason::Resigned));
    // What a server knows after a restart is what it knows from events.
    let mut followed = View::default();
    assert_eq!(View::of(net.chain.state()).get(Net::topic()).unwrap().waiting.len(), 0);
    followed.note(&Event::Set { topic: Net::topic(), outside: false });
    assert_eq!(followed.iter().count(), 1);
}

/// The chain refuses what comes with an older fence, from somebody else, or of another history.
#[test]
fn a_superseded_owner_changes_nothing() {
    let mut net = Net::new();
    net.push(50, 0, content(&["a"])).unwrap();
    net.acquire(1, 0).unwrap();
    for seat in [2, 3] {
        net.attest(seat, 1, Ground::Lost { renewals: 0 }).unwrap();
    }
    net.acquire(4, 1).unwrap();
    let before = net.record();
    assert_eq!(refused(&net.hold(1, 1, Some(1), None)), "fence 1 does not hold: 2 does");
    assert_eq!(refused(&net.hold(1, 1, None, Some(1))), "fence 1 does not hold: 2 does");
    assert!(
        refused(&net.hold(1, 2, None, Some(1))).starts_with("the lock belongs to"),
        "the fence alone is not enough"
    );
    assert_eq!(refused(&net.hold(4, 3, Some(1), None)), "fence 3 does not hold: 2 does", "a fence of the future");
    assert!(refused(&net.hold(4, 2, None, Some(9))).contains("no frame that waits"));
    let release = Instruction::Release { topic: Net::topic(), fence: Fence(2) };
    assert!(net.tell(1, release).unwrap_err().contains("nobody else renews it, releases it"));
    assert_eq!(net.record(), before);
}

#[test]
fn f_plus_one_seats_release_a_lock_and_members_of_one_seat_are_one() {
    let mut net = Net::new();
    net.push(50, 0, content(&["a"])).unwrap();
    net.acquire(1, 0).unwrap();
    let expired = Ground::Expired { renewals: 0 };
    assert_eq!(net.attest(2, 1, expired).unwrap().len(), 1);
    assert_eq!(net.attest(12, 1, expired).unwrap().len(), 1, "another member of the same seat");
    let stranger = net.attest(50, 1, expired).unwrap_err();
    assert!(stranger.contains("a member of no cluster"), "{stranger}");
    let events = net.attest(3, 1, expired).unwrap();
    let owner = key(1).public();
    let released = Event::Released { topic: Net::topic(), fence: Fence(1), owner, reason: Reason::Expired };
    assert_eq!(events.last(), Some(&released), "two of four: one of them may be faulty");
    assert_eq!(refused(&net.attest(4, 1, expired).unwrap()), "fence 1 does not hold: the lock is free since 1");
    assert!(net.acquire(50, 1).unwrap_err().contains("a member of no cluster"), "no client gets it");
}

/// H4: what is pushed while a lock is lost and free is queued at once; whoever is next begins behind what was published, and has all of it.
#[test]
fn h4_what_is_pushed_while_a_lock_changes_hands_is_queued_for_whoever_is_next() {
    let mut net = Net::new();
    let queued = |event: Result<Event, String>| match event {
        Ok(Event::Queued { entry, .. }) => entry.first,
        other => panic!("{other:?}"),
    };
    assert_eq!(queued(net.push(77, 0, content(&["a"]))), Sequence(1), "nobody has held it yet");
    assert_eq!(net.acquire(1, 0).unwrap().from, Sequence(1));
    net.hold(1, 1, None, Some(1));
    assert_eq!(queued(net.push(77, 1, content(&["b"]))), Sequence(2));
    net.attest(2, 1, Ground::Lost { renewals: 0 }).unwrap();
    net.attest(3, 1, Ground::Lost { renewals: 0 }).unwrap();
    assert_eq!(queued(net.push(77, 2, content(&["c"]))), Sequence(3), "while it is free");
    let next = net.acquire(2, 1).unwrap();
    assert_eq!((next.fence, next.from), (Fence(2), Sequence(2)));
    let view = View::of(net.chain.state());
    let waiting: Vec<_> = view.get(Net::topic()).unwrap().waiting.keys().copied().collect();
    assert_eq!(waiting, [Sequence(2), Sequence(3)]);
}

/// H16: nothing stalls where nothing waits.
#[test]
fn h16_an_owner_stalls_only_while_something_waits() {
    let mut net = Net::new();
    net.push(50, 0, content(&["a"])).unwrap();
    net.acquire(1, 0).unwrap();
    net.hold(1, 1, None, Some(1));
    let stalled = Ground::Stalled { published: Sequence(1) };
    assert_eq!(refused(&net.attest(2, 1, stalled).unwrap()), "nothing waits to be published");
    net.push(50, 1, content(&["b"])).unwrap();
    net.attest(2, 1, stalled).unwrap();
    let events = net.attest(3, 1, stalled).unwrap();
    assert!(matches!(events.last(), Some(Event::Released { reason: Reason::Stalled, .. })), "{events:?}");
}

#[test]
fn operators_say_who_may_push_what_and_take_a_lock_away() {
    let mut net = Net::new();
    let sources = Some(BTreeSet::from([key(50).public()]));
    let set = TopicChange::Set(Net::topic(), Settings { sources, text: true, outside: false });
    assert!(net.order(0, vec![set.clone()], &[91]).unwrap_err().contains("2 are needed"));
    net.order(0, vec![set.clone()], &[91, 92]).unwrap();
    assert!(net.order(0, vec![set], &[91, 92]).unwrap_err().contains("the next one is 1"), "it counts once");
    assert!(net.push(51, 0, content(&["a"])).unwrap_err().contains("does not list this client"));
    let datum = crate::frame::Datum { id: Bytes::new(), value: Bytes::from_static(&[0xff]) };
    assert!(net.push(50, 0, Content::new(&[datum]).unwrap()).unwrap_err().contains("datum 0 is not UTF-8"));
    net.push(50, 0, content(&["a"])).unwrap();
    net.acquire(1, 0).unwrap();
    let release = |fence| vec![TopicChange::Release(Net::topic(), Fence(fence))];
    assert!(net.order(1, release(2), &[91, 92]).unwrap_err().contains("nobody holds the lock"));
    let events = net.order(1, release(1), &[91, 92]).unwrap();
    assert!(matches!(events[..], [Event::Released { reason: Reason::Ordered, .. }]));
}

/// Data that nobody has any more hold up a topic no longer than operators want.
#[test]
fn operators_give_up_what_is_lost_and_the_topic_goes_on_behind_it() {
    let mut net = Net::new();
    net.push(50, 0, content(&["a", "b"])).unwrap();
    net.push(50, 2, content(&["c"])).unwrap();
    net.acquire(1, 0).unwrap();
    let skip = |from, upto| vec![TopicChange::Skip { topic: Net::topic(), from: Sequence(from), upto: Sequence(upto) }];
    assert!(net.order(0, skip(1, 2), &[91]).unwrap_err().contains("2 are needed"));
    assert!(net.order(0, skip(2, 2), &[91, 92]).unwrap_err().contains("the first that waits is 1"));
    assert!(net.order(0, skip(1, 1), &[91, 92]).unwrap_err().contains("no frame that waits"));
    let mut view = View::of(net.chain.state());
    let events = net.order(0, skip(1, 2), &[91, 92]).unwrap();
    events.iter().for_each(|event| _ = view.note(event));
    assert_eq!(view, View::of(net.chain.state()), "servers know of it what the state says");
    assert!(matches!(
        events[..],
        [Event::Released { reason: Reason::Ordered, .. }, Event::Skipped { from: Sequence(1), .. }]
    ));
    let record = net.record();
    assert_eq!((record.dictionary.published, record.dictionary.waiting), (Sequence(2), 1));
    assert_eq!(record::entry(net.chain.state(), Net::topic(), Sequence(1)), None);
    let takeover = net.acquire(1, 1).unwrap();
    assert_eq!((takeover.from, takeover.before), (Sequence(3), record.dictionary.published_chain));
    assert!(matches!(net.hold(1, 2, None, Some(3))[..], [Event::Published { .. }]));
}

/// On a chain of listed clients a push takes the role `publish`, and no topic begins by itself. Members need no role.
#[test]
fn listed_clients_need_the_role_and_members_do_not() {
    let mut net = Net::new();
    let client = |role| Client { roles: [role].into(), per_second: 0 };
    let changes = vec![
        ClientChange::Set(key(50).public(), client(Role::Publish)),
        ClientChange::Set(key(51).public(), client(Role::Submit)),
        ClientChange::Admission(Admission::Listed),
    ];
    let draft = Approved::draft(ClientOrder { chain: net.genesis.digest(), number: 0, changes });
    let approved = draft.by(&key(91)).by(&key(92));
    net.carry_out(77, "standin", SystemTransaction::Clients(approved).to_wire().unwrap()).unwrap();
    assert!(net.push(50, 0, content(&["a"])).unwrap_err().contains("operators make topics"));
    net.order(0, vec![TopicChange::Set(Net::topic(), Settings::default())], &[91, 92]).unwrap();
    net.push(50, 0, content(&["a"])).unwrap();
    assert!(net.push(51, 0, content(&["a"])).unwrap_err().contains("without the role `publish`"));
    assert!(net.push(52, 0, content(&["a"])).unwrap_err().contains("does not list this client"));
    let put = Operation::Put { key: vec![1], value: vec![2] }.to_payload();
    assert!(net.carry_out(50, "t", put.clone()).unwrap_err().contains("without the role `submit`"));
    net.carry_out(51, "t", put).unwrap();
    net.acquire(1, 0).unwrap();
}

#[test]
fn a_member_that_joined_later_competes_once_its_list_is_shown() {
    let mut net = Net::new();
    net.push(50, 0, content(&["a"])).unwrap();
    assert!(net.acquire(33, 0).unwrap_err().contains("a member of no cluster"));
    let members = |version, keys: &[u8]| {
        let member = |n: &u8| (key(*n).public().node_id(), standin_ledger::Member::from(key(*n).public()));
        let members = keys.iter().map(member).collect::<std::collections::BTreeMap<NodeId, _>>();
        let cluster = "c3".parse().unwrap();
        Membership { chain: genesis().digest(), cluster, listed: Epoch(0), version, members }
    };
    let forged = members(1, &[33]).sign(&key(1));
    assert!(net.tell(77, Instruction::Members(forged)).unwrap_err().contains("signature is not valid"));
    net.tell(77, Instruction::Members(members(2, &[3, 33]).sign(&key(99)))).unwrap();
    let older = members(1, &[3, 13]).sign(&key(99));
    assert!(net.tell(77, Instruction::Members(older)).unwrap_err().contains("or a newer one"));
    net.acquire(33, 0).unwrap();
    let expired = Ground::Expired { renewals: 0 };
    assert!(net.attest(13, 1, expired).unwrap_err().contains("a member of no cluster"), "it is on the list no more");
}

#[test]
fn what_is_not_the_publishers_goes_to_the_machine_inside_and_keeps_out_of_its_keys() {
    struct Writes(u8);
    impl StateMachine for Writes {
        fn apply(&self, _: &Context, _: &Transaction, state: &mut State<'_>) -> Result<Vec<u8>, Reject> {
            state.put(vec![self.0, 1], vec![7]);
            Ok(vec![self.0])
        }
        fn query(&self, _: &Trie, query: &[u8]) -> Result<Vec<u8>, Reject> {
            Ok(query.to_vec())
        }
        fn version(&self) -> u32 {
            9
        }
    }
    let genesis = Arc::new(genesis());
    let body = TransactionBody { title: "t".parse().unwrap(), nonce: 1, expires: Height(9), payload: vec![1] };
    let transaction = Transaction::unsigned(&key(50).public(), &body).unwrap();
    let context = Context { height: Height(1), time_ms: 0, version: 1 };
    let trie = Trie::default();
    let apply = |prefix| {
        let machine = Topics::new(Arc::clone(&genesis), Writes(prefix));
        assert_eq!((machine.version(), machine.query(&trie, b"q").unwrap()), (9, b"q".to_vec()));
        machine.apply(&context, &transaction, &mut State::new(&trie))
    };
    assert_eq!(apply(3), Ok(vec![3]));
    assert!(apply(PUBLISHER_PREFIX).unwrap_err().to_string().contains("0xfe"));
}

/// A block that is undone leaves nothing, and one that cannot be read changes nothing.
#[test]
fn malformed_instructions_are_refused_before_and_when_they_are_ordered() {
    let mut net = Net::new();
    net.push(50, 0, content(&["a"])).unwrap();
    let root = net.chain.state().root();
    net.push(50, 1, content(&["b"])).unwrap();
    net.chain.undo_to(Height(1)).unwrap();
    assert_eq!(net.chain.state().root(), root);
    assert!(net.carry_out(1, PUBLISHER_TITLE, vec![250, 1, 2]).unwrap_err().starts_with("payload: "));
    assert!(net.tell(1, Instruction::Hold(Vec::new())).unwrap_err().contains("1 to 256"));
    let word = Attestation { topic: Net::topic(), fence: Fence(1), ground: Ground::Lost { renewals: 0 } };
    assert!(net.tell(1, Instruction::Attest(vec![word; 2])).unwrap_err().contains("named twice"));
    assert!(net.carry_out(1, "topic.rates", vec![1; 20]).unwrap_err().starts_with("payload: "));
    let nowhere =
        Instruction::Acquire { topic: "other".parse().unwrap(), after: Fence(0), lease_ms: 1_000, outside: None };
    assert_eq!(net.tell(1, nowhere).unwrap_err(), "there is no topic `other`");
    assert_eq!(net.chain.state().root(), root);
    let _ = Server::new(key(1).public(), crate::Config::default(), View::of(net.chain.state()), Default::default());
}

/// Seats whose servers have the lock, lease after lease or turn by turn, give it back in time or not, and publish nothing, keep no topic for themselves.
#[test]
fn h16_seats_that_publish_nothing_let_another_one_have_the_lock_first() {
    let mut net = Net::new();
    net.push(50, 0, content(&["a"])).unwrap();
    let stalls = |net: &mut Net, fence, by: [u8; 2]| {
        for seat in by {
            net.attest(seat, fence, Ground::Stalled { published: Sequence(0) }).unwrap();
        }
    };
    net.acquire(1, 0).unwrap();
    stalls(&mut net, 1, [2, 3]);
    for member in [1, 11] {
        let refused = net.acquire(member, 1).unwrap_err();
        assert!(refused.contains("seat 0 has had the lock and published nothing"), "{refused}");
    }
    // Another one has it, gives it back before anybody finds it wanting, and is kept from it as well: they do not take turns.
    net.acquire(2, 1).unwrap();
    net.tell(2, Instruction::Release { topic: Net::topic(), fence: Fence(2) }).unwrap();
    assert!(net.acquire(12, 2).unwrap_err().contains("seat 1 has had"));
    assert!(net.acquire(1, 2).unwrap_err().contains("seat 0 has had"));
    // Somebody publishes: nobody is kept from it any more.
    net.acquire(3, 2).unwrap();
    net.hold(3, 3, None, Some(1));
    net.push(50, 1, content(&["b"])).unwrap();
    let lost = |net: &mut Net, fence, by: [u8; 2]| {
        for seat in by {
            net.attest(seat, fence, Ground::Lost { renewals: 0 }).unwrap();
        }
    };
    lost(&mut net, 3, [2, 4]);
    net.acquire(13, 3).unwrap();
    lost(&mut net, 4, [2, 4]);
    // Where nobody else wants it, some blocks are enough; each ask is one here.
    let refused = (0..30).take_while(|_| net.acquire(3, 4).is_err()).count() as u64;
    assert_eq!(refused, crate::machine::lock::BARRED_BLOCKS - 1);
    // While nothing waits nobody has to publish anything.
    net.hold(3, 5, None, Some(2));
    net.tell(3, Instruction::Release { topic: Net::topic(), fence: Fence(5) }).unwrap();
    net.acquire(4, 5).unwrap();
    lost(&mut net, 6, [1, 2]);
    net.acquire(4, 6).unwrap();
}

/// Of a chain of one seat its members are all that there are.
#[test]
fn of_a_chain_of_one_seat_any_member_goes_on_at_once() {
    let mut genesis = genesis();
    genesis.seats.truncate(1);
    let genesis = Arc::new(genesis);
    let machine = Topics::new(Arc::clone(&genesis), Builtin);
    let mut net = Net { chain: Chain::new(&genesis, Arc::new(machine)), genesis, nonce: 0 };
    net.push(50, 0, content(&["a"])).unwrap();
    net.acquire(1, 0).unwrap();
    net.attest(1, 1, Ground::Lost { renewals: 0 }).unwrap();
    net.acquire(11, 1).unwrap();
}
