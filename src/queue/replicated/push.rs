//! A push to two of the members at once; or first to the one that keeps the backup, before what the tasks are for has happened.
//!
//! Whoever waits for it waits until one member has the tasks. The rest goes on behind, so that a member that hangs is found out and
//! the backup is made. It has no task of its own: what follows from each event is done where that is noticed.

use std::{sync::Arc, time::Duration, vec};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::{sync::oneshot, time::Instant};

use super::{
    lane::Lane,
    member::{Member, all_failed},
};
use crate::{
    model::Task,
    queue::{Ahead, QueueError},
};

/// As good as none, and yet a delay.
const SHORTEST_DELAY: Duration = Duration::from_millis(1);

/// What a member is to do with the tasks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Give them out when the caller said.
    First,
    /// Keep them in case the first one loses them.
    Backup,
    /// Give them out when the caller said, though it was to be the backup: the first one was not made.
    Promoted,
}

type Answer = Result<(), QueueError>;

/// How tasks are pushed.
#[derive(Clone, Copy)]
pub(super) struct How {
    /// After how long the first member gives them out.
    pub(super) delay: Duration,
    /// So much later the one with the backup does.
    pub(super) backup_delay: Duration,
    /// Whoever waits hears of it when all is done that is to be done, not as soon as one member has the tasks.
    pub(super) tells_at_the_end: bool,
}

/// Tasks on their way, and what became of them so far.
pub(super) struct Push {
    tasks: Box<[Task]>,
    how: How,
    state: Mutex<State>,
}

struct State {
    tell: Option<oneshot::Sender<Answer>>,
    /// Is to be the first once it has happened.
    held: Option<Arc<Member>>,
    /// Not asked yet.
    spare: vec::IntoIter<Arc<Member>>,
    /// Parts that did not end yet.
    under_way: usize,
    is_first_there: bool,
    backup: Option<Arc<Member>>,
    /// They were to keep a backup, and failed; what they failed at may have been done.
    perhaps_backups: Vec<Arc<Member>>,
    is_durable: bool,
    called_off: bool,
    errors: Vec<QueueError>,
}

impl Push {
    /// Pushes to the first two of these members that take it. The receiver gets the answer, or nothing if the push is given up.
    pub(super) fn start(tasks: &[Task], how: How, members: Vec<Arc<Member>>) -> oneshot::Receiver<Answer> {
        let (push, answer) = Self::new(tasks, how, members);
        let mut state = push.state.lock();
        if push.ask_next(&mut state, Part::First) {
            push.ask_next(&mut state, Part::Backup);
        } else {
            push.settle(&mut state);
        }
        drop(state);
        answer
    }

    /// Has the second of these members keep them, or another one if that fails; the first one gets them when it has happened.
    /// `None` where there is no second one.
    pub(super) fn start_ahead(tasks: &[Task], how: How, members: Vec<Arc<Member>>) -> Option<PushAhead> {
        let (push, answer) = Self::new(tasks, how, members);
        let mut state = push.state.lock();
        state.held = state.spare.next();
        let is_kept = push.ask_next(&mut state, Part::Backup);
        drop(state);
        is_kept.then_some(PushAhead { push, answer: Some(answer), begun: Instant::now() })
    }

    fn new(tasks: &[Task], how: How, members: Vec<Arc<Member>>) -> (Arc<Self>, oneshot::Receiver<Answer>) {
        let (tell, answer) = oneshot::channel();
        let state = State {
            tell: Some(tell),
            held: None,
            spare: members.into_iter(),
            under_way: 0,
            is_first_there: false,
            backup: None,
            perhaps_backups: Vec::new(),
            is_durable: false,
            called_off: false,
            errors: Vec::new(),
        };
        (Arc::new(Self { tasks: tasks.into(), how, state: Mutex::new(state) }), answer)
    }

    pub(super) fn tasks(&self) -> &[Task] {
        &self.tasks
    }

    /// After how long a member gives them out.
    pub(super) fn delay(&self, part: Part) -> Duration {
        match part {
            Part::First => self.how.delay,
            Part::Backup => self.how.delay.saturating_add(self.how.backup_delay),
            // With a delay, it is the same entry that comes due earlier. Without one it would be a second entry, and to take
            // the backup back then is to take back what was given out meanwhile, failed, and waits to be tried again.
            Part::Promoted => self.how.delay.max(SHORTEST_DELAY),
        }
    }

    /// Whoever waited went away before any member had it: it need not be done any more.
    pub(super) fn is_wanted(&self) -> bool {
        let state = self.state.lock();
        state.is_durable || state.tell.as_ref().is_some_and(|tell| !tell.is_closed())
    }

    /// How a member did its part.
    pub(super) fn ended(self: &Arc<Self>, member: &Arc<Member>, part: Part, result: Answer) {
        let mut state = self.state.lock();
        state.under_way -= 1;
        state.is_durable |= result.is_ok();
        match (result, part) {
            // If it failed, the backup comes due later.
            (_, Part::Promoted) => {}
            (Ok(()), Part::First) => state.is_first_there = true,
            (Ok(()), Part::Backup) => state.backup = Some(Arc::clone(member)),
            (Err(error), part) => {
                state.errors.push(error);
                if part == Part::Backup {
                    state.perhaps_backups.push(Arc::clone(member));
                }
                if !state.called_off {
                    self.ask_next(&mut state, part);
                }
            }
        }
        if state.is_durable && state.held.is_none() && !self.how.tells_at_the_end {
            state.answer();
        }
        self.settle(&mut state);
    }

    /// Nobody wanted a part any more when its turn came.
    pub(super) fn skipped(self: &Arc<Self>) {
        let mut state = self.state.lock();
        state.under_way -= 1;
        self.settle(&mut state);
    }

    /// It has happened: they may be given out.
    fn happened(self: &Arc<Self>) {
        let mut state = self.state.lock();
        // Who has kept it for a while, and failed at something since, may have lost it.
        state.is_durable &= state.backup.as_ref().is_some_and(|member| member.is_well());
        if let Some(first) = state.held.take() {
            self.ask(&mut state, &first, Part::First);
        }
        if state.is_durable && !self.how.tells_at_the_end {
            state.answer();
        }
    }

    /// It does not happen.
    fn call_off(self: &Arc<Self>) {
        let mut state = self.state.lock();
        (state.held, state.called_off) = (None, true);
        self.settle(&mut state);
    }

    /// Asks a member that was not asked yet; whether there is one.
    fn ask_next(self: &Arc<Self>, state: &mut State, part: Part) -> bool {
        let next = state.spare.next();
        next.is_some_and(|next| {
            self.ask(state, &next, part);
            true
        })
    }

    fn ask(self: &Arc<Self>, state: &mut State, member: &Arc<Member>, part: Part) {
        state.under_way += 1;
        Lane::add(member, Arc::clone(self), part);
    }

    /// Does what is left to do once all parts have ended.
    fn settle(self: &Arc<Self>, state: &mut State) {
        if state.under_way > 0 || state.held.is_some() {
            return;
        }
        match state.backup.take() {
            kept if state.called_off => {
                for member in kept.into_iter().chain(state.perhaps_backups.drain(..)) {
                    member.take_back(self.tasks.iter().cloned());
                }
            }
            // Its member is to give the tasks out when the caller said.
            Some(member) if !state.is_first_there => self.ask(state, &member, Part::Promoted),
            _ => state.answer(),
        }
    }
}

impl State {
    /// Says how it ended, if that was not said before.
    fn answer(&mut self) {
        if let Some(tell) = self.tell.take() {
            let errors = std::mem::take(&mut self.errors);
            // Nobody waits any more if the caller was dropped; the tasks are there all the same.
            let _ = tell.send(if self.is_durable { Ok(()) } else { Err(all_failed(errors)) });
        }
    }
}

/// A push of which a backup is made while what the tasks are for still happens.
pub(super) struct PushAhead {
    push: Arc<Push>,
    /// Taken when it has happened.
    answer: Option<oneshot::Receiver<Answer>>,
    begun: Instant,
}

#[async_trait]
impl Ahead for PushAhead {
    async fn happened(mut self: Box<Self>) -> Answer {
        if self.begun.elapsed() > self.push.how.backup_delay / 2 {
            // By the time it is over, the backup may have been given out and have found nothing.
            return Err(QueueError::Unavailable("it took too long to happen".to_owned()));
        }
        let Some(answer) = self.answer.take() else { return Err(given_up()) };
        self.push.happened();
        // Whoever drops the push unanswered is to be one of those who do it: then there is nothing to wait for.
        drop(self);
        ended(answer).await
    }
}

impl Drop for PushAhead {
    fn drop(&mut self) {
        if self.answer.is_some() {
            self.push.call_off();
        }
    }
}

/// What the receiver of a push got.
pub(super) async fn ended(answer: oneshot::Receiver<Answer>) -> Answer {
    answer.await.unwrap_or_else(|_| Err(given_up()))
}

fn given_up() -> QueueError {
    QueueError::Failed("the push was given up".to_owned())
}
