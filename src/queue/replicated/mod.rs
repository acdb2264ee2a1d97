//! Several queues as one. A task goes to two of them: one gives it out, the other keeps it as a backup that comes due
//! later ([`crate::queue::BACKUP_DELAY`]) and is taken back when the task is done. So each task is normally done once, and
//! no server that dies, hangs or forgets takes a task with it, nor makes anybody wait for it.
//!
//! - `member`: one of the queues and its health; `push` (by a `lane` for each), `claim`: the two hot paths; `take_back`: of backups
//! - `merge`: what the members say, as one answer
//!
//! Known and harmless: a task that takes longer than the delay, because its target is paused or far behind or its blob is
//! very big, is given out by both members, and the second time it is found done or done again. A pause that a server forgot, or that was made while it was down,
//! holds only on the others: `stats` says `paused`, pausing again mends it.

mod claim;
mod lane;
mod member;
mod merge;
mod push;
mod take_back;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::future::join_all;

use self::{
    claim::Late,
    member::{Member, all_failed},
    push::{How, Push},
};
use super::{Ahead, Claim, DeadLetter, Filter, Listed, Queue, QueueError, QueueStats, Want, poll::Poll};
use crate::model::{ServerId, Task};

/// So many pushes in a row begin with the same member: what it is given at the same time is then alike, and makes one call.
const PUSHES_IN_A_ROW: usize = 64;

/// Letters per member read to count each once. Beyond, counts are those of the member that has most.
const LETTERS_COUNTED: usize = 1_000;

/// Several queues as one.
pub struct ReplicatedQueue {
    members: Vec<Arc<Member>>,
    backup_delay: Duration,
    /// See [`super::QueueOptions::wait_for_backups`]; not at first.
    pub wait_for_backups: bool,
    /// Where the next claim begins among the members.
    claims: AtomicUsize,
    /// The same for pushes, [`PUSHES_IN_A_ROW`] times.
    pushes: AtomicUsize,
    late: Late,
}

impl ReplicatedQueue {
    /// One queue of these, each with the name that operators know it by. The names must differ and stay the same for the
    /// same queue: they are part of the receipts.
    pub fn new(members: Vec<(String, Arc<dyn Queue>)>, backup_delay: Duration) -> Self {
        Self {
            members: members.into_iter().map(|(name, queue)| Arc::new(Member::new(name, queue))).collect(),
            backup_delay,
            wait_for_backups: false,
            claims: AtomicUsize::new(fastrand::usize(..1 << 16)),
            pushes: AtomicUsize::new(fastrand::usize(..1 << 16)),
            late: Late::default(),
        }
    }

    /// The members, this one first, those that are not well last.
    fn from(&self, first: usize) -> Vec<Arc<Member>> {
        let mut order = self.members.clone();
        order.rotate_left(first % self.members.len().max(1));
        order.sort_by_key(|member| !member.is_well());
        order
    }

    fn how(&self, delay: Duration) -> How {
        How { delay, backup_delay: self.backup_delay, tells_at_the_end: self.wait_for_backups }
    }

    fn for_claim(&self) -> Vec<Arc<Member>> {
        self.from(self.claims.fetch_add(1, Ordering::Relaxed))
    }

    fn for_push(&self) -> Vec<Arc<Member>> {
        self.from(self.pushes.fetch_add(1, Ordering::Relaxed) / PUSHES_IN_A_ROW)
    }

    /// Calls each member that has some of the claims; the first error, if any, after all have ended.
    async fn by_member<F>(
        &self,
        claims: &[Claim],
        call: impl Fn(Arc<Member>, Vec<Claim>) -> F,
    ) -> Result<(), QueueError>
    where
        F: Future<Output = Result<(), QueueError>>,
    {
        let calls = self.members.iter().filter_map(|member| {
            let ours: Vec<_> = claims.iter().filter_map(|claim| member.inward(claim)).collect();
            (!ours.is_empty()).then(|| call(Arc::clone(member), ours))
        });
        join_all(calls).await.into_iter().collect()
    }

    /// The member that gave a claim and the claim as it knows it. For a claim of a server that the map no longer names, any
    /// member, which then adds the task.
    fn owner(&self, claim: &Claim) -> Result<(Arc<Member>, Claim), QueueError> {
        let ours = |member: &Arc<Member>| Some((Arc::clone(member), member.inward(claim)?));
        let other = || Some((self.for_push().into_iter().next()?, claim.clone()));
        self.members.iter().find_map(ours).or_else(other).ok_or(QueueError::NotSet)
    }

    /// Takes back the backups of what was done, behind the caller's back.
    fn take_back(&self, claims: &[Claim]) {
        for member in &self.members {
            let others = claims.iter().filter(|claim| member.inward(claim).is_none());
            member.take_back(others.map(|claim| claim.task.clone()));
        }
    }

    /// Asks every member at once; what those that answered said, unless none did.
    async fn ask_all<T, F>(&self, ask: impl Fn(Arc<Member>) -> F) -> Result<Vec<T>, QueueError>
    where
        F: Future<Output = Result<T, QueueError>>,
    {
        let (mut answers, mut errors) = (Vec::new(), Vec::new());
        for result in join_all(self.members.iter().map(|member| ask(Arc::clone(member)))).await {
            match result {
                Ok(answer) => answers.push(answer),
                Err(error) => errors.push(error),
            }
        }
        if answers.is_empty() { Err(all_failed(errors)) } else { Ok(answers) }
    }

    /// Tells every member something that all must know.
    async fn tell_all<F>(&self, tell: impl Fn(Arc<Member>) -> F) -> Result<(), QueueError>
    where
        F: Future<Output = Result<(), QueueError>>,
    {
        let results = join_all(self.members.iter().map(|member| tell(Arc::clone(member)))).await;
        let (mut told, mut errors) = (Vec::new(), Vec::new());
        for (member, result) in self.members.iter().zip(results) {
            match result {
                Ok(()) => told.push(member.name.as_str()),
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() || told.is_empty() {
            return if errors.is_empty() { Ok(()) } else { Err(all_failed(errors)) };
        }
        let failed = all_failed(errors);
        Err(QueueError::Unavailable(format!("done on {}, but: {failed}; do it again", told.join(", "))))
    }

    /// Letters of all members, each once; `None` where a member has too many to count them so.
    async fn few_letters(&self, filter: &Filter) -> Result<Option<Vec<DeadLetter>>, QueueError> {
        let ask = |member: Arc<Member>| async move { member.queue.dead(filter, LETTERS_COUNTED + 1).await };
        let answers = self.ask_all(ask).await?;
        let few = answers.iter().all(|letters| letters.len() <= LETTERS_COUNTED);
        Ok(few.then(|| merge::letters(answers)))
    }

    /// The number of tasks that members removed from their letters: each once if they were few, else the greatest number.
    fn removed(few: Option<u64>, answers: Vec<u64>) -> u64 {
        let most = answers.into_iter().max().unwrap_or(0);
        few.map_or(most, |few| few.max(most))
    }
}

#[async_trait]
impl Queue for ReplicatedQueue {
    async fn push(&self, tasks: &[Task], delay: Duration) -> Result<(), QueueError> {
        if tasks.is_empty() {
            return Ok(());
        }
        push::ended(Push::start(tasks, self.how(delay), self.for_push())).await
    }

    fn push_ahead(&self, tasks: &[Task]) -> Option<Box<dyn Ahead>> {
        let ahead = Push::start_ahead(tasks, self.how(Duration::ZERO), self.for_push())?;
        Some(Box::new(ahead))
    }

    async fn settle(&self) {
        // A push of nothing, whose turn comes after those of all others; twice, because where one member fails another is asked.
        for _ in 0..2 {
            let how = self.how(Duration::ZERO);
            let nothing = |member| push::ended(Push::start(&[], how, vec![Arc::clone(member)]));
            // A member that failed has nothing left to do either.
            let _ = join_all(self.members.iter().map(nothing)).await;
        }
    }

    async fn cancel(&self, tasks: &[Task]) -> Result<(), QueueError> {
        let cancel = |member: Arc<Member>| async move { member.queue.cancel(tasks).await };
        self.ask_all(cancel).await.map(drop)
    }

    async fn claim(&self, want: &Want, wait: Duration) -> Result<Vec<Claim>, QueueError> {
        let mut poll = Poll::new(wait);
        loop {
            let mut members = self.for_claim();
            // Those that are not well get none of the numbers wanted, unless there are no others.
            let well = members.iter().filter(|member| member.is_well()).count();
            members.truncate(if well == 0 { members.len() } else { well });
            let claims = claim::claim(&members, want, &self.late, self.backup_delay).await?;
            if !claims.is_empty() || !poll.again().await {
                return Ok(claims);
            }
        }
    }

    async fn renew(&self, claims: &[Claim]) -> Result<(), QueueError> {
        self.by_member(claims, |member, claims| async move { member.queue.renew(&claims).await }).await
    }

    async fn ack(&self, claims: &[Claim]) -> Result<(), QueueError> {
        self.take_back(claims);
        self.by_member(claims, |member, claims| async move { member.queue.ack(&claims).await }).await
    }

    async fn retry(&self, claim: &Claim, delay: Duration) -> Result<(), QueueError> {
        let (member, claim) = self.owner(claim)?;
        member.queue.retry(&claim, delay).await
    }

    async fn release(&self, claim: &Claim, delay: Duration) -> Result<(), QueueError> {
        let (member, claim) = self.owner(claim)?;
        member.queue.release(&claim, delay).await
    }

    async fn bury(&self, claim: &Claim, reason: &str) -> Result<(), QueueError> {
        let (member, inward) = self.owner(claim)?;
        member.queue.bury(&inward, reason).await?;
        // After it: until it is a dead letter, the backup may be the only trace of the task.
        self.take_back(std::slice::from_ref(claim));
        Ok(())
    }

    async fn stats(&self) -> Result<QueueStats, QueueError> {
        let ask = |member: &Arc<Member>| {
            let member = Arc::clone(member);
            async move { (member.name.clone(), member.queue.stats().await) }
        };
        let answers = join_all(self.members.iter().map(ask)).await;
        let with_letters =
            answers.iter().filter(|(_, stats)| stats.as_ref().is_ok_and(|stats| stats.dead() > 0));
        let several = with_letters.count() > 1;
        let mut stats = merge::stats(answers)?;
        if several && let Some(letters) = self.few_letters(&Filter::default()).await? {
            merge::count_letters(&mut stats, &letters);
        }
        Ok(stats)
    }

    async fn list(&self, filter: &Filter, limit: usize) -> Result<Vec<Listed>, QueueError> {
        let ask = |member: Arc<Member>| async move { member.queue.list(filter, limit).await };
        let mut listed = merge::listed(self.ask_all(ask).await?);
        listed.truncate(limit);
        Ok(listed)
    }

    async fn dead(&self, filter: &Filter, limit: usize) -> Result<Vec<DeadLetter>, QueueError> {
        let ask = |member: Arc<Member>| async move { member.queue.dead(filter, limit).await };
        let mut letters = merge::letters(self.ask_all(ask).await?);
        letters.truncate(limit);
        Ok(letters)
    }

    async fn redrive(&self, filter: &Filter) -> Result<u64, QueueError> {
        let few = self.few_letters(filter).await?;
        let few = few.map(|letters| letters.iter().filter(|letter| letter.task.is_some()).count() as u64);
        let redrive = |member: Arc<Member>| async move { member.queue.redrive(filter).await };
        Ok(Self::removed(few, self.ask_all(redrive).await?))
    }

    async fn discard(&self, filter: &Filter) -> Result<u64, QueueError> {
        let few = self.few_letters(filter).await?.map(|letters| letters.len() as u64);
        let discard = |member: Arc<Member>| async move { member.queue.discard(filter).await };
        Ok(Self::removed(few, self.ask_all(discard).await?))
    }

    async fn pause(&self, target: &ServerId) -> Result<(), QueueError> {
        self.tell_all(|member| async move { member.queue.pause(target).await }).await
    }

    async fn resume(&self, target: &ServerId) -> Result<(), QueueError> {
        self.tell_all(|member| async move { member.queue.resume(target).await }).await
    }
}
