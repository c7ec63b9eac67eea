//! The one timer of an actor around a machine: the machine says when it wants to be woken at the latest.

use std::time::Duration;

use actix::{AsyncContext, SpawnHandle};
use standin_foundation::Millis;

use crate::cell::{Ctx, Role};

/// A timer that only ever moves earlier: one that rings too soon costs a turn, and the machine then says anew what it wants.
#[derive(Debug, Default)]
pub struct Alarm(Option<(Millis, SpawnHandle)>);

impl Alarm {
    /// Rings at `wanted`, unless it does so earlier already. `Millis(u64::MAX)` stands for never.
    pub fn set<R: Role>(&mut self, wanted: Millis, now: Millis, ctx: &mut Ctx<R>, ring: fn(&mut R, &mut Ctx<R>)) {
        if wanted == Millis(u64::MAX) || self.0.as_ref().is_some_and(|(at, _)| *at <= wanted) {
            return;
        }
        if let Some((_, timer)) = self.0.take() {
            ctx.cancel_future(timer);
        }
        let wait = Duration::from_millis((wanted - now).max(1));
        self.0 = Some((wanted, ctx.run_later(wait, move |shell, ctx| ring(&mut shell.role, ctx))));
    }

    /// It rang, and is not set any more.
    pub fn rang(&mut self) {
        self.0 = None;
    }
}
