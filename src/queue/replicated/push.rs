//! A push to two of the members at once.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::sync::oneshot;

use super::member::{Member, all_failed};
use crate::{model::Task, queue::QueueError};

/// As good as none, and yet a delay.
const SHORTEST_DELAY: Duration = Duration::from_millis(1);

/// What a member is to do with the tasks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Give them out when the caller said.
    First,
    /// Keep them in case the first one loses them.
    Backup,
}

/// Pushes to the first two members that take it, tried in this order. Answers as soon as one has the tasks, unless it is to
/// wait; the rest goes on behind, so that a member that hangs is found out and the backup is made.
pub(super) async fn push(
    order: Vec<Arc<Member>>,
    tasks: &[Task],
    delay: Duration,
    backup_delay: Duration,
    wait_for_backups: bool,
) -> Result<(), QueueError> {
    let (answer, answered) = oneshot::channel();
    let job = Job { tasks: tasks.into(), delay, backup_delay };
    let job = tokio::spawn(job.run(order, answer));
    let answer = answered.await.unwrap_or_else(|_| {
        Err(QueueError::Failed("the push was given up: the process is ending".to_owned()))
    });
    if wait_for_backups {
        // How it ended, the answer says.
        let _ = job.await;
    }
    answer
}

struct Job {
    tasks: Arc<[Task]>,
    delay: Duration,
    backup_delay: Duration,
}

impl Job {
    async fn run(self, order: Vec<Arc<Member>>, answer: oneshot::Sender<Result<(), QueueError>>) {
        let mut spare = order.into_iter();
        let mut running: FuturesUnordered<_> = [Part::First, Part::Backup]
            .into_iter()
            .zip(spare.by_ref().take(2))
            .map(|(part, member)| self.push_to(member, part))
            .collect();
        let (mut answer, mut errors) = (Some(answer), Vec::new());
        let (mut first, mut backup) = (false, None);
        while let Some((member, part, result)) = running.next().await {
            match result {
                Ok(()) => {
                    // Nobody waits any more if the caller was dropped; the tasks are there all the same.
                    let _ = answer.take().map(|answer| answer.send(Ok(())));
                    match part {
                        Part::First => first = true,
                        Part::Backup => backup = Some(member),
                    }
                }
                Err(error) => {
                    errors.push(error);
                    if let Some(next) = spare.next() {
                        running.push(self.push_to(next, part));
                    }
                }
            }
        }
        match (answer, backup) {
            (Some(answer), _) => drop(answer.send(Err(all_failed(errors)))),
            (None, Some(member)) if !first => self.promote(member).await,
            _ => {}
        }
    }

    /// Only a backup was made: its member is to give the tasks out when the caller said. Best effort, for the tasks are safe.
    async fn promote(&self, member: Arc<Member>) {
        // With a delay, it is the same entry that comes due earlier. Without one it would be a second entry, and to take
        // the backup back then is to take back what was given out meanwhile, failed, and waits to be tried again.
        let delay = self.delay.max(SHORTEST_DELAY);
        member.note(&member.queue.push(&self.tasks, delay).await);
    }

    async fn push_to(&self, member: Arc<Member>, part: Part) -> (Arc<Member>, Part, Result<(), QueueError>) {
        let delay = match part {
            Part::First => self.delay,
            Part::Backup => self.delay.saturating_add(self.backup_delay),
        };
        let result = member.queue.push(&self.tasks, delay).await;
        member.note(&result);
        (member, part, result)
    }
}
