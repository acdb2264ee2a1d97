//! Answers to those who wait for a write.

use tokio::{runtime::Handle, sync::oneshot};

use super::{StorageError, writer::Done};

/// What came of a write.
pub type Outcome = Result<Done, StorageError>;

/// The end of it that waits.
pub type Awaited = oneshot::Receiver<Outcome>;

/// Where somebody waits for what comes of a write.
#[derive(Debug)]
pub struct Answer {
    to: oneshot::Sender<Outcome>,
    /// The runtime in which they wait.
    runtime: Option<Handle>,
}

impl Answer {
    /// An answer to whoever makes it, and where it comes.
    pub fn to_me() -> (Self, Awaited) {
        let (to, answer) = oneshot::channel();
        (Self { to, runtime: Handle::try_current().ok() }, answer)
    }

    /// Gives it.
    pub fn give(self, outcome: Outcome) {
        // Whoever does not wait any more does not need to know.
        let _ = self.to.send(outcome);
    }
}

/// Gives all of them, in the runtime of those who wait: it is woken once. Woken for each of eleven answers by the writer's thread, a node's
/// thread began with the first, slept again, and was woken for the next, three and a half times a sync.
pub fn all(mut answers: Vec<(Answer, Done)>) {
    let give = |(answer, done): (Answer, Done)| answer.give(Ok(done));
    while let Some(runtime) = answers.iter().find_map(|(answer, _)| answer.runtime.clone()) {
        let waits_there = |(answer, _): &mut (Answer, Done)| {
            answer.runtime.as_ref().is_some_and(|other| other.id() == runtime.id())
        };
        let there: Vec<_> = answers.extract_if(.., waits_there).collect();
        runtime.spawn(async move { there.into_iter().for_each(give) });
    }
    answers.into_iter().for_each(give);
}

#[cfg(test)]
mod tests {
    use tokio::runtime::{Builder, Runtime};

    use super::*;
    use crate::storage::Before;

    fn runtime() -> Runtime {
        Builder::new_current_thread().build().unwrap()
    }

    #[test]
    fn everybody_is_answered_where_they_wait() {
        let (one, other, gone) = (runtime(), runtime(), runtime());
        let in_runtime = |runtime: &Runtime| {
            let _inside = runtime.enter();
            Answer::to_me()
        };
        let (waits, answers): (Vec<_>, Vec<_>) =
            [in_runtime(&one), in_runtime(&other), in_runtime(&one), in_runtime(&gone), Answer::to_me()]
                .into_iter()
                .unzip();
        drop(gone);
        let done = || Done { before: Before::Nothing, stale: None };
        all(waits.into_iter().map(|answer| (answer, done())).collect());
        let [first, second, third, lost, outside] = <[_; 5]>::try_from(answers).unwrap();
        for (runtime, answer) in [(&one, first), (&other, second), (&one, third), (&other, outside)] {
            assert_eq!(runtime.block_on(answer).unwrap().unwrap().before, Before::Nothing);
        }
        assert!(other.block_on(lost).is_err(), "nobody can be there any more");
    }
}
