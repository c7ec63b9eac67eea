//! What operators order: checked against who must approve it, decided by the machine, swapped, and told to all.

use actix::fut::wrap_future;
use actix::{ActorFutureExt, AsyncContext};
use standin_foundation::NodeId;
use standin_ledger::{Approved, Membership, Reject};
use standin_stage::{CallError, Ctx, Handle, Lane, Message, Reply, Shell};

use super::{ATTEMPTS_MAX, AuthActor, MembershipNotice};
use crate::Record;
use crate::messages::{Action, MemberOrder, Refusal};
use crate::register::{Counted, Stored};

/// An order of operators. The answer is the list of members that came of it, or why nothing was changed.
#[derive(Debug)]
pub struct Ordered(pub Approved<MemberOrder>);

impl Message for Ordered {
    type Reply = Result<Membership, Refusal>;
    const LANE: Lane = Lane::Control;
}

impl Handle<Ordered> for AuthActor {
    fn handle(&mut self, Ordered(order): Ordered, reply: Reply<Result<Membership, Refusal>>, ctx: &mut Ctx<Self>) {
        self.order(order, reply, ctx);
    }
}

impl AuthActor {
    fn order(
        &mut self,
        approved: Approved<MemberOrder>,
        reply: Reply<Result<Membership, Refusal>>,
        ctx: &mut Ctx<Self>,
    ) {
        if let Err(Reject(what)) = approved.check(&self.chain, &self.setup.book.newest_table().operators) {
            return reply.send(Err(Refusal::NotApproved { what }));
        }
        if let Err(why) = self.check_issuer() {
            return reply.send(Err(why));
        }
        let read = wrap_future(self.setup.register.read_all());
        ctx.spawn(read.map(move |read, shell: &mut Shell<Self>, ctx| match read {
            Ok(records) => shell.role.order_on(approved.order, &records, reply, ctx),
            Err(error) => shell.role.register_failed(error, reply),
        }));
    }

    fn order_on(
        &mut self,
        order: MemberOrder,
        records: &[Record],
        reply: Reply<Result<Membership, Refusal>>,
        ctx: &mut Ctx<Self>,
    ) {
        let is_elsewhere = |node: NodeId| {
            records.iter().any(|record| record.cluster != order.cluster && record.admitted.contains_key(&node))
        };
        if let Action::Admit(member) = &order.action
            && is_elsewhere(member.key.node_id())
        {
            let what = "the node is a member of another cluster".to_owned();
            return reply.send(Err(Refusal::BadMember { what }));
        }
        self.read_and_swap(order, None, reply, ctx);
    }

    /// `tried` is what an earlier attempt was to put in, and how many there were: the register may have taken it, and its answer been lost.
    fn read_and_swap(
        &mut self,
        order: MemberOrder,
        tried: Option<(Record, usize)>,
        reply: Reply<Result<Membership, Refusal>>,
        ctx: &mut Ctx<Self>,
    ) {
        let read = wrap_future(self.setup.register.read(&order.cluster));
        ctx.spawn(read.map(move |read, shell: &mut Shell<Self>, ctx| match read {
            Ok(Counted { content: Some(stored), .. }) => shell.role.swap_ordered(order, &stored, tried, reply, ctx),
            Ok(_) => reply.send(Err(Refusal::BadMember { what: format!("there is no cluster `{}`", order.cluster) })),
            Err(error) => shell.role.register_failed(error, reply),
        }));
    }

    fn swap_ordered(
        &mut self,
        order: MemberOrder,
        stored: &Stored,
        tried: Option<(Record, usize)>,
        reply: Reply<Result<Membership, Refusal>>,
        ctx: &mut Ctx<Self>,
    ) {
        let before = &stored.record;
        let list = |record: &Record| (record.listed, record.membership_version, record.admitted.clone());
        let attempt = match tried {
            Some((wanted, _)) if list(&wanted) == list(before) => return reply.send(Ok(self.ordered(before))),
            Some((_, attempt)) => attempt + 1,
            None => 0,
        };
        if attempt >= ATTEMPTS_MAX {
            return reply.refuse(CallError::Overloaded { queued: attempt, limit: ATTEMPTS_MAX });
        }
        let named = self.machine.named(before).map(|named| Record { version: before.version, ..named });
        let next = match self.machine.order(named.as_ref().unwrap_or(before), &order) {
            Ok(next) => next,
            Err(why) => return reply.send(Err(why)),
        };
        let swapped = wrap_future(self.setup.register.swap(stored.mark, next.clone()));
        ctx.spawn(swapped.map(move |swapped, shell: &mut Shell<Self>, ctx| match swapped {
            Ok(Counted { content: true, .. }) => reply.send(Ok(shell.role.ordered(&next))),
            // A grant was faster, which does not touch the members; or another order, and then this one counts no more.
            Ok(_) => shell.role.read_and_swap(order, Some((next, attempt)), reply, ctx),
            Err(error) => shell.role.register_failed(error, reply),
        }));
    }

    fn ordered(&mut self, next: &Record) -> Membership {
        let membership = next.membership(self.chain);
        let members = membership.members.keys().map(NodeId::short).collect::<Vec<_>>().join(" ");
        tracing::warn!(cluster = %next.cluster, version = membership.version, members, "operators changed the members");
        (self.setup.on_membership)(&membership);
        if let Some(signed) = self.told(next).membership {
            self.tell_all(&MembershipNotice(signed));
        }
        membership
    }
}
