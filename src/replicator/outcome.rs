//! What becomes of a task after a try: done, again later, or given up. Pure: every way a try can end has its name here
//! and its own answer.

use std::{fmt, time::Duration};

use super::gates::Standing;
use crate::{
    client::{Copied, ServerError},
    daemon::Backoff,
    model::{Operation, ServerId},
};

/// How often and how fast tasks are tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Policy {
    /// A task whose own failures reach this number is given up.
    pub(super) attempts: u32,
    /// Waits between the tries of one task.
    pub(super) backoff: Backoff,
}

/// A source may lag behind: an upload that is still running, a disk that is being mounted. By then it is gone.
const NO_SOURCE_ATTEMPTS: u32 = 8;

/// A server that refuses a request will refuse it again; only a short mistake of its operator is waited for.
const REFUSED_ATTEMPTS: u32 = 3;

/// A server that is not in the map was added a moment ago and our map is about to have it, or it comes back by an
/// operator's hand.
const UNKNOWN_SERVER: Backoff = Backoff { first: Duration::from_secs(1), max: Duration::from_secs(3600) };

/// Tasks given back are spread over this much more than the pause, so that they do not all come at its end.
const SPREAD: f64 = 0.25;

/// How a try ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ending {
    /// The copy was made, or was not needed.
    Copied(Copied),
    /// The tombstone is there.
    Deleted,
    /// The target is not in the map.
    UnknownTarget,
    /// Every source answered that it has not got it, or none of them is in the map.
    NoSource,
    /// Nothing was tried: a breaker is open.
    Held(Duration),
    /// The target failed.
    Target(ServerError, Standing),
    /// The last source that failed otherwise than by not having it.
    Source(ServerId, ServerError, Standing),
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Copied(Copied::Copied(bytes)) => write!(f, "copied {bytes} bytes"),
            Self::Copied(Copied::AlreadyThere | Copied::Newer(_)) => f.write_str("it is there"),
            Self::Copied(Copied::Deleted) => f.write_str("it was deleted meanwhile"),
            Self::Deleted => f.write_str("deleted"),
            Self::UnknownTarget => f.write_str("the target is not in the map"),
            Self::NoSource => f.write_str("no source has it"),
            Self::Held(_) => f.write_str("a server it needs is being left alone"),
            Self::Target(error, _) => write!(f, "target: {error}"),
            Self::Source(server, error, _) => write!(f, "source {server}: {error}"),
        }
    }
}

/// The name of what happened, for metrics and logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    AlreadyThere,
    Deleted,
    DeletedMeanwhile,
    UnknownServer,
    NoSource,
    SourceDown,
    SourceFailed,
    TargetDown,
    TargetFull,
    TargetFailed,
    TargetRefused,
    Unsupported,
    WrongBytes,
    Held,
}

impl Outcome {
    /// The value of the label `outcome`.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::AlreadyThere => "already_there",
            Self::Deleted => "deleted",
            Self::DeletedMeanwhile => "deleted_meanwhile",
            Self::UnknownServer => "unknown_server",
            Self::NoSource => "no_source",
            Self::SourceDown => "source_down",
            Self::SourceFailed => "source_failed",
            Self::TargetDown => "target_down",
            Self::TargetFull => "target_full",
            Self::TargetFailed => "target_failed",
            Self::TargetRefused => "target_refused",
            Self::Unsupported => "unsupported",
            Self::WrongBytes => "wrong_bytes",
            Self::Held => "held",
        }
    }
}

/// What is to be done with a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision {
    /// It is done.
    Ack,
    /// Again after this, counted as an attempt.
    Retry(Duration),
    /// Again after this, not counted.
    Release(Duration),
    /// To the dead letters.
    Bury(String),
}

/// Decides. `attempts` is how often it failed before this try; `random` in `0.0..1.0` spreads the waits.
pub(super) fn decide(
    op: Operation,
    ending: &Ending,
    attempts: u32,
    policy: &Policy,
    random: f64,
) -> (Outcome, Decision) {
    let tries = Tries { failed: attempts.saturating_add(1), policy, random };
    match ending {
        Ending::Copied(Copied::Copied(_)) => (Outcome::Done, Decision::Ack),
        Ending::Copied(Copied::AlreadyThere | Copied::Newer(_)) => (Outcome::AlreadyThere, Decision::Ack),
        Ending::Copied(Copied::Deleted) => (Outcome::DeletedMeanwhile, Decision::Ack),
        Ending::Deleted => (Outcome::Deleted, Decision::Ack),
        Ending::Held(pause) => (Outcome::Held, tries.release(*pause)),
        Ending::UnknownTarget => {
            let reason = || format!("{ending}: add the server again, or discard this");
            (Outcome::UnknownServer, tries.up_to(policy.attempts, &UNKNOWN_SERVER, reason))
        }
        Ending::NoSource => {
            let most = NO_SOURCE_ATTEMPTS.min(policy.attempts);
            let reason = || format!("{ending}: every server of the shard was asked");
            (Outcome::NoSource, tries.up_to(most, &policy.backoff, reason))
        }
        Ending::Target(error, standing) => tries.after_target(op, error, standing, || ending.to_string()),
        Ending::Source(_, error, standing) => tries.after_source(error, standing, || ending.to_string()),
    }
}

struct Tries<'a> {
    /// This one included.
    failed: u32,
    policy: &'a Policy,
    random: f64,
}

impl Tries<'_> {
    fn after_target(
        &self,
        op: Operation,
        error: &ServerError,
        standing: &Standing,
        reason: impl Fn() -> String,
    ) -> (Outcome, Decision) {
        let attempts = self.policy.attempts;
        let backoff = &self.policy.backoff;
        match error {
            ServerError::Full => (Outcome::TargetFull, self.release(standing.pause)),
            error if error.is_down() && !standing.works => {
                (Outcome::TargetDown, self.release(standing.pause))
            }
            error if error.is_down() => (Outcome::TargetFailed, self.while_it_works(error, reason)),
            ServerError::Unsupported(_) if op == Operation::Delete => {
                (Outcome::Unsupported, Decision::Bury("the target cannot delete".to_owned()))
            }
            ServerError::NeedsLength => {
                (Outcome::Unsupported, Decision::Bury("the target takes no empty blobs".to_owned()))
            }
            ServerError::WrongBytes(_) => (Outcome::WrongBytes, self.up_to(attempts, backoff, reason)),
            _ => (Outcome::TargetRefused, self.up_to(REFUSED_ATTEMPTS.min(attempts), backoff, reason)),
        }
    }

    fn after_source(
        &self,
        error: &ServerError,
        standing: &Standing,
        reason: impl Fn() -> String,
    ) -> (Outcome, Decision) {
        let attempts = self.policy.attempts;
        let backoff = &self.policy.backoff;
        match error {
            error if error.is_down() && !standing.works => {
                (Outcome::SourceDown, self.release(standing.pause))
            }
            error if error.is_down() => (Outcome::SourceFailed, self.while_it_works(error, reason)),
            ServerError::WrongBytes(_) => (Outcome::WrongBytes, self.up_to(attempts, backoff, reason)),
            _ => (Outcome::SourceFailed, self.up_to(attempts, backoff, reason)),
        }
    }

    /// A server that works for others fails this task: counted, so that its waits grow. Only a server that answers with
    /// an error of its own (500) every time is given up on; time-outs and broken connections may be load.
    fn while_it_works(&self, error: &ServerError, reason: impl Fn() -> String) -> Decision {
        let most = match error {
            ServerError::NotReady { status: 500, .. } => self.policy.attempts,
            _ => u32::MAX,
        };
        self.up_to(most, &self.policy.backoff, reason)
    }

    fn up_to(&self, most: u32, backoff: &Backoff, reason: impl Fn() -> String) -> Decision {
        if self.failed >= most {
            return Decision::Bury(reason());
        }
        Decision::Retry(backoff.wait(self.failed, self.random))
    }

    fn release(&self, pause: Duration) -> Decision {
        Decision::Release(pause.mul_f64(1.0 + SPREAD * self.random))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy = Policy {
        attempts: 12,
        backoff: Backoff { first: Duration::from_secs(2), max: Duration::from_secs(600) },
    };
    const PAUSE: Duration = Duration::from_secs(7);
    const DOWN: Standing = Standing { works: false, pause: PAUSE };
    const WORKS: Standing = Standing { works: true, pause: PAUSE };

    fn of(ending: Ending, attempts: u32) -> (Outcome, Decision) {
        decide(Operation::Copy, &ending, attempts, &POLICY, 0.0)
    }

    fn unreachable() -> ServerError {
        ServerError::Unreachable("refused".to_owned())
    }

    fn status(status: u16) -> ServerError {
        ServerError::NotReady { status, message: String::new() }
    }

    #[test]
    fn what_is_done_is_acknowledged_under_its_name() {
        for (ending, outcome) in [
            (Ending::Copied(Copied::Copied(5)), Outcome::Done),
            (Ending::Copied(Copied::AlreadyThere), Outcome::AlreadyThere),
            (Ending::Copied(Copied::Deleted), Outcome::DeletedMeanwhile),
            (Ending::Deleted, Outcome::Deleted),
        ] {
            assert_eq!(of(ending, 99), (outcome, Decision::Ack));
        }
    }

    #[test]
    fn a_server_that_is_down_for_days_kills_no_task() {
        let source = "9".parse().unwrap();
        for attempts in [0, 1_000_000] {
            for (ending, outcome) in [
                (Ending::Target(unreachable(), DOWN), Outcome::TargetDown),
                (Ending::Target(status(500), DOWN), Outcome::TargetDown),
                (Ending::Target(ServerError::Full, WORKS), Outcome::TargetFull),
                (Ending::Source(Clone::clone(&source), unreachable(), DOWN), Outcome::SourceDown),
                (Ending::Held(PAUSE), Outcome::Held),
            ] {
                assert_eq!(of(ending, attempts), (outcome, Decision::Release(PAUSE)));
            }
        }
    }

    #[test]
    fn a_task_that_alone_fails_waits_longer_each_time() {
        let again = |attempts, error| of(Ending::Target(error, WORKS), attempts);
        let failed = |seconds| (Outcome::TargetFailed, Decision::Retry(Duration::from_secs(seconds)));
        assert_eq!(again(0, unreachable()), failed(1));
        assert_eq!(again(3, unreachable()), failed(8));
        assert_eq!(again(1_000_000, unreachable()), failed(300));
        assert!(matches!(again(11, status(500)).1, Decision::Bury(_)));
        assert!(matches!(again(11, status(503)).1, Decision::Retry(_)));
    }

    #[test]
    fn what_can_never_succeed_is_given_up() {
        let refused = || ServerError::Refused { status: 403, message: "no".to_owned() };
        let delete =
            decide(Operation::Delete, &Ending::Target(ServerError::Unsupported(418), WORKS), 0, &POLICY, 0.0);
        assert_eq!(delete, (Outcome::Unsupported, Decision::Bury("the target cannot delete".to_owned())));
        assert!(matches!(of(Ending::Target(ServerError::NeedsLength, WORKS), 0).1, Decision::Bury(_)));
        assert!(matches!(of(Ending::Target(refused(), WORKS), 1).1, Decision::Retry(_)));
        assert_eq!(
            of(Ending::Target(refused(), WORKS), 2),
            (Outcome::TargetRefused, Decision::Bury("target: the server refuses (403): no".to_owned()))
        );
        assert!(matches!(of(Ending::NoSource, 6), (Outcome::NoSource, Decision::Retry(_))));
        assert!(matches!(of(Ending::NoSource, 7), (Outcome::NoSource, Decision::Bury(_))));
        assert!(matches!(of(Ending::UnknownTarget, 10), (Outcome::UnknownServer, Decision::Retry(_))));
        assert!(matches!(of(Ending::UnknownTarget, 11), (Outcome::UnknownServer, Decision::Bury(_))));
    }

    #[test]
    fn wrong_bytes_are_tried_again_before_they_are_believed() {
        let wrong = || ServerError::WrongBytes("checksum".to_owned());
        let source = "9".parse::<ServerId>().unwrap();
        for ending in [Ending::Target(wrong(), WORKS), Ending::Source(source, wrong(), WORKS)] {
            assert!(matches!(of(ending.clone(), 0), (Outcome::WrongBytes, Decision::Retry(_))));
            assert!(matches!(of(ending, 11), (Outcome::WrongBytes, Decision::Bury(_))));
        }
    }

    #[test]
    fn tasks_given_back_do_not_come_all_at_once() {
        let at = |random| decide(Operation::Copy, &Ending::Held(PAUSE), 0, &POLICY, random).1;
        assert_eq!(at(0.0), Decision::Release(PAUSE));
        assert_eq!(at(1.0), Decision::Release(PAUSE.mul_f64(1.25)));
    }
}
