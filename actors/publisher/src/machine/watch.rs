//! A seat's eyes on the owners of locks: leases that run out, connections that are lost, owners that stand still.

use std::collections::{BTreeMap, VecDeque};

use standin_foundation::{Millis, PublicKey};

use crate::config::Config;
use crate::ids::{Fence, Sequence, Topic};
use crate::machine::links::Links;
use crate::machine::lock::{Ground, Reason};
use crate::machine::view::{Held, TopicView};
use crate::messages::Attestation;

/// Locks released for lost connections within this time make the next one wait longer, in ms.
const ALARMS_WITHIN_MS: u64 = 60_000;
/// As many of them are taken as they come.
const ALARMS_FREE: usize = 2;
/// They double the grace so often at the most.
const DOUBLED_MAX: u32 = 6;

/// What one lock looks like from here.
#[derive(Debug, Clone)]
struct Watched {
    fence: Fence,
    renewals: u64,
    /// When the lease has ended for this seat; none where a lock service counts it.
    expires: Option<Millis>,
    published: Sequence,
    /// Since when data wait without progress.
    waits_since: Option<Millis>,
    /// What was attested last, and when.
    said: Option<(Ground, Millis)>,
}

/// The eyes of a seat.
#[derive(Debug, Default)]
pub(super) struct Watch {
    locks: BTreeMap<Topic, Watched>,
    /// When connections to owners were found lost.
    alarms: BTreeMap<Topic, VecDeque<Millis>>,
}

impl Watch {
    /// A topic has changed.
    pub(super) fn note(&mut self, now: Millis, config: &Config, topic: Topic, view: &TopicView) {
        let Some(Held { lease_ms, renewals, .. }) = view.held else {
            if self.locks.remove(&topic).is_some() && matches!(view.ended, Some((_, Reason::Lost))) {
                let alarms = self.alarms.entry(topic).or_default();
                alarms.push_back(now);
                alarms.retain(|at| now - *at < ALARMS_WITHIN_MS);
            }
            return;
        };
        let published = view.published.upto;
        let waits = !view.waiting.is_empty();
        let known = self.locks.get(&topic).filter(|known| known.fence == view.fence);
        let is_renewed = known.is_none_or(|known| known.renewals != renewals);
        let stands = known.filter(|known| known.published == published).and_then(|known| known.waits_since);
        let watched = Watched {
            fence: view.fence,
            renewals,
            expires: match known {
                Some(known) if !is_renewed => known.expires,
                _ => view.outside.is_none().then(|| now + config.lease_of_watcher(lease_ms)),
            },
            published,
            waits_since: waits.then(|| stands.unwrap_or(now)),
            said: known.and_then(|known| known.said),
        };
        self.locks.insert(topic, watched);
    }

    /// How long a connection must be lost before it counts, in ms: longer for a lock that was lost often of late.
    fn grace(&self, now: Millis, config: &Config, topic: &Topic) -> u64 {
        let recent =
            self.alarms.get(topic).map_or(0, |at| at.iter().filter(|at| now - **at < ALARMS_WITHIN_MS).count());
        let doubled = u32::try_from(recent.saturating_sub(ALARMS_FREE)).unwrap_or(DOUBLED_MAX).min(DOUBLED_MAX);
        config.link_grace_ms << doubled
    }

    /// What this seat must say now, of locks that others hold; and when to look again.
    pub(super) fn due(
        &mut self,
        now: Millis,
        config: &Config,
        (own, links): (&PublicKey, &Links),
        view: impl Fn(Topic) -> Option<Held>,
    ) -> (Vec<Attestation>, Option<Millis>) {
        let (mut due, mut next) = (Vec::new(), None::<Millis>);
        let graces: BTreeMap<Topic, u64> =
            self.locks.keys().map(|topic| (*topic, self.grace(now, config, topic))).collect();
        for (topic, watched) in &mut self.locks {
            let Some(held) = view(*topic).filter(|held| held.owner != *own) else { continue };
            let grace = graces.get(topic).copied().unwrap_or(config.link_grace_ms);
            let lost = links.lost_since(&held.owner.node_id()).map(|since| since + grace);
            let stalled = watched.waits_since.map(|since| since + config.stall_ms);
            let renewals = watched.renewals;
            let grounds = [
                (watched.expires, Ground::Expired { renewals }),
                (lost, Ground::Lost { renewals }),
                (stalled, Ground::Stalled { published: watched.published }),
            ];
            let reached = grounds.iter().find(|(at, _)| at.is_some_and(|at| at <= now));
            let wake = match reached {
                Some((_, ground)) => {
                    let again = watched.said.filter(|(said, _)| said == ground).map(|(_, at)| at + config.retry_ms);
                    if again.is_none_or(|again| again <= now) {
                        watched.said = Some((*ground, now));
                        due.push(Attestation { topic: *topic, fence: watched.fence, ground: *ground });
                    }
                    Some(again.filter(|again| *again > now).unwrap_or(now + config.retry_ms))
                }
                None => grounds.iter().filter_map(|(at, _)| *at).min(),
            };
            next = next.into_iter().chain(wake).min();
        }
        (due, next)
    }
}
