//! Publication under a lock that this server owns: first in, first out, from behind the last checkpoint; and checkpoints.

use standin_foundation::Millis;

use crate::config::Config;
use crate::ids::Sequence;
use crate::machine::dictionary::CHECKPOINT_FRAMES_MAX;
use crate::machine::view::TopicView;
use crate::messages::Checkpoint;

/// What is published of a topic.
#[derive(Debug, Clone)]
pub(super) struct Publication {
    /// Terminals may have everything up to here.
    limit: Sequence,
    /// Since when something was published that is on no checkpoint.
    since: Option<Millis>,
    /// The checkpoint that the chain has not answered yet.
    proposed: Option<(Checkpoint, Millis)>,
}

impl Publication {
    /// Begins behind what was published.
    pub(super) fn begin(published: Sequence) -> Self {
        Self { limit: published, since: None, proposed: None }
    }

    /// Goes on as far as the window allows; gives the new limit if it moved.
    pub(super) fn advance(&mut self, now: Millis, config: &Config, view: &TopicView) -> Option<Sequence> {
        if self.proposed.is_some_and(|(checkpoint, _)| checkpoint.upto <= view.published.upto) {
            self.proposed = None;
        }
        if self.limit <= view.published.upto {
            self.limit = view.published.upto;
            self.since = None;
        }
        let window_end = Sequence(view.published.upto.0.saturating_add(config.window));
        let limit = view.checkpoint_at(window_end, usize::MAX)?.upto;
        if limit <= self.limit {
            return None;
        }
        self.limit = limit;
        self.since = self.since.or(Some(now));
        Some(limit)
    }

    /// The checkpoint that is due, and else when one will be.
    pub(super) fn checkpoint(
        &mut self,
        now: Millis,
        config: &Config,
        view: &TopicView,
    ) -> (Option<Checkpoint>, Option<Millis>) {
        let Some(since) = self.since else { return (None, None) };
        if let Some((_, at)) = self.proposed
            && now < at + config.retry_ms
        {
            return (None, Some(at + config.retry_ms));
        }
        let unrecorded = self.limit.0.saturating_sub(view.published.upto.0);
        let due = since + config.checkpoint_ms;
        if unrecorded < config.checkpoint_data && now < due {
            return (None, Some(due));
        }
        let found = view.checkpoint_at(self.limit, CHECKPOINT_FRAMES_MAX as usize);
        if let Some(checkpoint) = found {
            self.proposed = Some((checkpoint, now));
            // What is published from now on waits for the next one.
            self.since = (checkpoint.upto < self.limit).then_some(now).or(self.since);
        }
        (found, Some(now + config.retry_ms))
    }

    /// Up to where terminals may be served.
    pub(super) fn limit(&self) -> Sequence {
        self.limit
    }
}
