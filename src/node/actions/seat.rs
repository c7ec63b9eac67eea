//! A seat and the node that holds it: moved on purpose, given up for maintenance, silenced.

use std::time::Duration;

use standin_cluster::actor::{self as cluster, MemberStatus, Resign};
use standin_cluster::machine::View;
use standin_cluster::messages::{Switching, WantSwitch};
use standin_consensus::actor as consensus;
use standin_console::actions::{About, Action, Answer, Argument, Kind, Order, Preview};
use standin_console::protocol::{Refusal, Role};
use standin_foundation::NodeId;
use standin_ledger::certificate::{self, Authority};

use super::{answer, is_named, preview, unavailable, unknown};
use crate::node::NodeHandle;

const ASK_TIME: Duration = Duration::from_secs(2);

/// A node's cluster must be the one that is named; an empty name means the node's own.
fn is_own(node: &NodeHandle, order: &Order) -> Result<(), Refusal> {
    match order.on.as_str() {
        "" => Ok(()),
        name if name == node.cluster.as_str() => Ok(()),
        name => Err(unknown(format!("{} is in cluster `{}`, not in `{name}`", node.name, node.cluster))),
    }
}

async fn view_of(node: &NodeHandle) -> Result<View, Refusal> {
    let status = node.cluster().await;
    status.map(|MemberStatus { view, .. }| view).map_err(|error| unavailable(format!("the member: {error}")))
}

fn has_auth(node: &NodeHandle) -> Result<(), Refusal> {
    let what = "on a chain without an auth node a seat is held by one node for ever";
    node.genesis.auth.map(drop).ok_or_else(|| Refusal::new("fixed_seat", what, ""))
}

/// What a member is called, as far as this node knows: by its site.
fn called(node: &NodeHandle, id: &NodeId) -> String {
    let site = node.members.member(id).map(|member| format!(" at {}", member.site)).unwrap_or_default();
    format!("{}{site}", id.short())
}

/// Moves the seat to another member.
pub(super) struct Switch(pub(super) NodeHandle);

impl Switch {
    /// The member that is to succeed, if one is named; the holder; and the member machine's view.
    async fn check(node: &NodeHandle, order: &Order) -> Result<(Option<NodeId>, NodeId, View), Refusal> {
        is_own(node, order)?;
        has_auth(node)?;
        let to = order.arg("to").map(|text| {
            let members = node.members.of(node.seat).map(|membership| membership.members).unwrap_or_default();
            let named = members.keys().find(|id| id.to_string() == text || id.short() == text).copied();
            named.ok_or_else(|| unknown(format!("`{text}` is the id of no member of cluster {}", node.cluster)))
        });
        let to = to.transpose()?;
        let view = view_of(node).await?;
        let Some(holder) = view.holder else {
            let what = format!("nobody holds the seat of cluster {}", node.cluster);
            return Err(Refusal::new("no_holder", what, "a seat that nobody holds is taken as soon as a member may"));
        };
        if let Some(why) = view.suspicion {
            let what = format!("{} is suspected: {}", called(node, &holder), why.0);
            return Err(Refusal::new("holder_suspected", what, "its members are about to replace it"));
        }
        if let Some(to) = to.filter(|to| !view.in_sync.contains(to) || *to == holder) {
            let what = format!("{} is not a member of the in-sync set that follows", called(node, &to));
            return Err(Refusal::new("not_in_sync", what, "only such a one has all that the seat has said (L5)"));
        }
        if view.in_sync.len() < 2 {
            let what = "the in-sync set has no other member: nobody could take over";
            return Err(Refusal::new("alone", what, "wait until another member is in sync, or start one"));
        }
        Ok((to, holder, view))
    }

    /// The holder gives the seat up: this node, or a member of its cluster that it asks to.
    async fn resign(node: &NodeHandle, holder: NodeId, to: Option<NodeId>) -> Result<bool, Refusal> {
        if holder == node.node {
            return node.member.ask(Resign(to), ASK_TIME).await.map_err(unavailable);
        }
        let remote =
            node.peers.remote(&holder).ok_or_else(|| unavailable(format!("{} is not known", holder.short())))?;
        let asked = remote.ask(&WantSwitch(to), ASK_TIME).await;
        asked.map(|Switching(does)| does).map_err(|error| unavailable(format!("{}: {error}", called(node, &holder))))
    }
}

impl Action for Switch {
    fn about(&self) -> About {
        About {
            name: "switch",
            role: Role::Operator,
            what: "Moves the cluster's seat to another member of its in-sync set, without losing a block.",
            on: "cluster",
            arguments: &[Argument {
                name: "to",
                what: "the member that is to hold it; the first of the others without it",
                needed: false,
                kind: Kind::Member,
            }],
        }
    }

    fn preview(&self, order: &Order) -> Answer<Preview> {
        let (node, order) = (self.0.clone(), order.clone());
        answer(async move {
            let (to, holder, view) = Self::check(&node, &order).await?;
            let others = view.in_sync.len() - 1;
            let first = view.standby.filter(|id| *id != holder);
            let to = to.or(first).map_or_else(|| "another member".to_owned(), |id| called(&node, &id));
            let holder = called(&node, &holder);
            Ok(preview(
                node.cluster.as_str(),
                [
                    format!(
                        "{to} takes the seat of cluster {} over from {holder}, with term {}.",
                        node.cluster,
                        view.term.0 + 1
                    ),
                    format!("{holder} stays in the in-sync set, with {others} other members."),
                    "No view is left and no block is lost; transactions wait for some milliseconds.".to_owned(),
                ],
            ))
        })
    }

    fn carry_out(&self, order: &Order) -> Answer<String> {
        let (node, order) = (self.0.clone(), order.clone());
        answer(async move {
            let (to, holder, view) = Self::check(&node, &order).await?;
            match Self::resign(&node, holder, to).await? {
                true => Ok(format!("{} has resigned from term {}", called(&node, &holder), view.term.0)),
                false => {
                    let what = format!("{} does not hold the seat any more", called(&node, &holder));
                    Err(Refusal::new("not_the_holder", what, "look at who does"))
                }
            }
        })
    }
}

/// Takes the node out of service, or back.
pub(super) struct Drain {
    pub(super) node: NodeHandle,
    pub(super) on: bool,
}

impl Action for Drain {
    fn about(&self) -> About {
        let (name, what) = match self.on {
            true => (
                "drain",
                "Takes the node out of service: it gives its seat up, takes no transactions, and is not ready.",
            ),
            false => ("undrain", "Takes the node back into service."),
        };
        About { name, role: Role::Operator, what, on: "node", arguments: &[] }
    }

    fn preview(&self, order: &Order) -> Answer<Preview> {
        let (node, order, on) = (self.node.clone(), order.clone(), self.on);
        answer(async move {
            is_named(&node.name, &order)?;
            has_auth(&node)?;
            let view = view_of(&node).await?;
            if view.drains == on && node.modes.draining() == on {
                let state = if on { "is out of service already" } else { "is in service" };
                return Err(Refusal::new("no_change", format!("{} {state}", node.name), ""));
            }
            if !on {
                return Ok(preview(
                    &node.name,
                    [
                        format!("{} takes transactions, is ready, and may be elected as before.", node.name),
                        "It does not get back a seat that another member holds.".to_owned(),
                    ],
                ));
            }
            let drains = |id: &NodeId| view.mates.iter().any(|mate| mate.node == *id && mate.drains);
            let can = view.in_sync.iter().any(|id| *id != node.node && !drains(id));
            if view.active && !can {
                let what = format!(
                    "{} holds the seat of cluster {}, and nobody else is in sync and in service",
                    node.name, node.cluster
                );
                return Err(Refusal::new("alone", what, "wait until another member is in sync, or start one"));
            }
            let left = view.in_sync.iter().filter(|id| **id != node.node).count();
            let seat = match view.active {
                true => format!(
                    "{} resigns from the seat of cluster {}, term {}; another takes it over.",
                    node.name, node.cluster, view.term.0
                ),
                false => format!(
                    "{} does not hold the seat of cluster {}, and takes it only if nobody else does.",
                    node.name, node.cluster
                ),
            };
            Ok(preview(&node.name, [
                seat,
                format!("It goes on storing what the seat says; {left} others are in sync."),
                "It takes no transactions and says that it is not ready, until `undrain` or until its process starts anew.".to_owned(),
            ]))
        })
    }

    fn carry_out(&self, order: &Order) -> Answer<String> {
        let (shown, node, on) = (self.preview(order), self.node.clone(), self.on);
        answer(async move {
            shown.await?;
            node.member.ask(cluster::Drain(on), ASK_TIME).await.map_err(unavailable)?;
            node.modes.set_draining(on);
            Ok(format!("{} is {} service", node.name, if on { "going out of" } else { "back in" }))
        })
    }
}

/// Silences the node towards the other seats, or has it speak again.
pub(super) struct Pause {
    pub(super) node: NodeHandle,
    pub(super) on: bool,
}

const HALT: &[Argument] = &[Argument {
    name: "halt",
    what: "`yes`: also if the chain stands still then",
    needed: false,
    kind: Kind::OneOf(&["yes"]),
}];

impl Action for Pause {
    fn about(&self) -> About {
        let (name, what, arguments) = match self.on {
            true => (
                "pause",
                "Has the node say nothing to other seats: its seat votes for nothing while it holds it.",
                HALT,
            ),
            false => ("resume", "Has the node speak to other seats again.", &[][..]),
        };
        About { name, role: Role::Operator, what, on: "node", arguments }
    }

    fn preview(&self, order: &Order) -> Answer<Preview> {
        let (node, order, on) = (self.node.clone(), order.clone(), self.on);
        answer(async move {
            is_named(&node.name, &order)?;
            let status = node.status().await.map_err(|error| unavailable(format!("the replica: {error}")))?;
            if status.paused == on {
                let state = if on { "is paused already" } else { "is not paused" };
                return Err(Refusal::new("no_change", format!("{} {state}", node.name), ""));
            }
            if !on {
                return Ok(preview(&node.name, [format!("{} votes again, once it has caught up.", node.name)]));
            }
            if !status.speaks {
                let what = format!("{} does not hold the seat: it says nothing to other seats anyway", node.name);
                return Err(Refusal::new("not_the_holder", what, "pause the node that holds it, or drain this one"));
            }
            let seats = node.book.seats(status.status.epoch).unwrap_or_default().len();
            let (quorum, left) = (certificate::quorum(seats), status.heard);
            let stands_still = left < quorum;
            if stands_still && order.arg("halt") != Some("yes") {
                let what = format!(
                    "{left} of {seats} seats would be left, and {quorum} are needed: the chain would stand still"
                );
                return Err(Refusal::new(
                    "quorum_would_break",
                    what,
                    "say so with `halt=yes` if that is what you want",
                ));
            }
            let seat = format!(
                "Seat {} of cluster {} says nothing; no other member takes it over.",
                node.seat.0, node.cluster
            );
            let chain = match stands_still {
                true => format!("The chain stands still: {left} of {seats} seats are left, {quorum} are needed."),
                false => format!("The chain goes on: {quorum} of {seats} seats are needed."),
            };
            Ok(preview(
                &node.name,
                [
                    seat,
                    chain,
                    "It ends with `resume`, when the seat is moved to another member, or when the process starts anew."
                        .to_owned(),
                ],
            ))
        })
    }

    fn carry_out(&self, order: &Order) -> Answer<String> {
        let (shown, node, on) = (self.preview(order), self.node.clone(), self.on);
        answer(async move {
            shown.await?;
            node.replica.ask(consensus::Pause(on), ASK_TIME).await.map_err(unavailable)?;
            Ok(format!("{} {}", node.name, if on { "says nothing any more" } else { "speaks again" }))
        })
    }
}
