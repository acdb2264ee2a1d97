//! A claim from all members at once. Each member's answer is waited for to its end, by a task of its own, so nothing that
//! was claimed is lost; but the caller waits only for those that answer promptly. What comes late is given to the next
//! claim.

use std::{
    collections::{HashMap, HashSet},
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use parking_lot::Mutex;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};

use super::member::{Member, all_failed};
use crate::queue::{Claim, QueueError, Want};

/// Once one member has answered, the others get until so long after the question. Well over what a busy Redis needs.
const PATIENCE: Duration = Duration::from_millis(50);

/// A claim that came late is kept so long for the next caller; then it is left to come back when its lease ends, which must
/// not be over when its work begins.
const KEEP_LATE: Duration = Duration::from_secs(5);

type Answer = Result<Vec<Claim>, QueueError>;

/// A claim and who gave it, when.
struct Claimed {
    member: Arc<Member>,
    claim: Claim,
    at: Instant,
}

/// Claims that came after their caller went on.
#[derive(Clone, Default)]
pub(super) struct Late(Arc<Mutex<Vec<Claimed>>>);

impl Late {
    fn add(&self, member: &Arc<Member>, claims: Vec<Claim>) {
        self.0.lock().extend(claimed(member, claims));
    }

    fn take(&self) -> Vec<Claimed> {
        let mut late = std::mem::take(&mut *self.0.lock());
        late.retain(|claimed| claimed.at.elapsed() < KEEP_LATE);
        late
    }
}

/// Asks the members until some have something: all at once, or in smaller groups if fewer tasks than members are wanted.
/// Of a task that two members give at the same time, the second is put off by `backup_delay`.
pub(super) async fn claim(
    members: &[Arc<Member>],
    want: &Want,
    late: &Late,
    backup_delay: Duration,
) -> Answer {
    let claims = fit(late.take(), want, backup_delay);
    if !claims.is_empty() || want.max == 0 || want.max_per_target == 0 {
        return Ok(claims);
    }
    let (mut errors, mut any_answered) = (Vec::new(), false);
    let size = members.len().min(want.max).min(want.max_per_target);
    for group in members.chunks(size.max(1)) {
        let answered = ask_group(group, want, late, &mut errors).await;
        any_answered |= answered.is_some();
        let claims = fit(answered.unwrap_or_default(), want, backup_delay);
        if !claims.is_empty() {
            return Ok(claims);
        }
    }
    if any_answered { Ok(Vec::new()) } else { Err(all_failed(errors)) }
}

/// Asks each member of a group for its part of what is wanted. `None` if all failed.
async fn ask_group(
    group: &[Arc<Member>],
    want: &Want,
    late: &Late,
    errors: &mut Vec<QueueError>,
) -> Option<Vec<Claimed>> {
    let patience = Instant::now() + PATIENCE;
    let part = |of: usize, place: usize| of / group.len() + usize::from(place < of % group.len());
    let ask = |(place, member): (usize, &Arc<Member>)| {
        let max_per_target = part(want.max_per_target, place);
        let want = Want { max: part(want.max, place), max_per_target, except: want.except.clone() };
        Question::ask(Arc::clone(member), want, late.clone())
    };
    let mut asked: FuturesUnordered<_> = group.iter().enumerate().map(ask).collect();
    let mut found = None::<Vec<_>>;
    loop {
        let answer = match &found {
            None => asked.next().await,
            Some(_) => timeout_at(patience, asked.next()).await.unwrap_or(None),
        };
        match answer {
            None => return found,
            Some((member, Ok(claims))) => found.get_or_insert_default().extend(claimed(&member, claims)),
            Some((_, Err(error))) => errors.push(error),
        }
    }
}

fn claimed(member: &Arc<Member>, claims: Vec<Claim>) -> impl Iterator<Item = Claimed> {
    let at = Instant::now();
    claims.into_iter().map(move |claim| Claimed { member: Arc::clone(member), claim, at })
}

/// A claim asked of one member, which goes on when this is dropped.
struct Question {
    member: Arc<Member>,
    answer: oneshot::Receiver<Answer>,
    late: Late,
    done: bool,
}

impl Question {
    fn ask(member: Arc<Member>, want: Want, late: Late) -> Self {
        let (give, answer) = oneshot::channel();
        let question = Self { member: Arc::clone(&member), answer, late: late.clone(), done: false };
        tokio::spawn(async move {
            let result = member.queue.claim(&want, Duration::ZERO).await;
            member.note(&result);
            if let Err(result) = give.send(result) {
                member.late.fetch_sub(1, Ordering::Relaxed);
                late.add(&member, result.unwrap_or_default());
            }
        });
        question
    }
}

impl Future for Question {
    type Output = (Arc<Member>, Answer);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(Pin::new(&mut self.answer).poll(context));
        self.done = true;
        let panicked = |_| Err(QueueError::Failed(format!("{}: the claim panicked", self.member.name)));
        Poll::Ready((Arc::clone(&self.member), answer.unwrap_or_else(panicked)))
    }
}

impl Drop for Question {
    /// Once closed, the answer is either here already or goes to `late` by itself.
    fn drop(&mut self) {
        if self.done {
            return;
        }
        self.answer.close();
        match self.answer.try_recv() {
            Ok(result) => self.late.add(&self.member, result.unwrap_or_default()),
            Err(_) => drop(self.member.late.fetch_add(1, Ordering::Relaxed)),
        }
    }
}

/// Those of the claims that are wanted (what came late was asked for by another). The others go back to their members: at
/// once, or where the same task is among those wanted, as its backup.
fn fit(claims: Vec<Claimed>, want: &Want, backup_delay: Duration) -> Vec<Claim> {
    let (mut fitting, mut back) = (Vec::new(), Vec::new());
    let (mut per_target, mut seen) = (HashMap::new(), HashSet::new());
    for Claimed { member, claim, .. } in claims {
        let of_target: &mut usize = per_target.entry(claim.task.to.clone()).or_default();
        let identity = (claim.task.to.clone(), claim.task.key.clone(), claim.task.version);
        if fitting.len() >= want.max
            || *of_target >= want.max_per_target
            || want.except.contains(&claim.task.to)
        {
            back.push((member, claim, Duration::ZERO));
        } else if !seen.insert(identity) {
            back.push((member, claim, backup_delay));
        } else {
            *of_target += 1;
            fitting.push(member.outward(claim));
        }
    }
    if !back.is_empty() {
        tokio::spawn(release(back));
    }
    fitting
}

/// Best effort: what cannot be given back comes back when its lease ends.
async fn release(claims: Vec<(Arc<Member>, Claim, Duration)>) {
    for (member, claim, delay) in claims {
        if let Err(error) = member.queue.release(&claim, delay).await {
            tracing::debug!(server = member.name, %error, "a claim nobody wanted was not given back");
        }
    }
}
