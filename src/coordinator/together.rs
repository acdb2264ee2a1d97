//! Things that many do at the same time, done together: while one turn is under way, what comes is gathered, and goes as the
//! next one. Nobody waits where nobody else is.
//!
//! One turn at a time, because each costs the same whatever it holds: with four at a time Redis had a third more to do for each
//! task (docs/performance.md), and whatever holds up one turn holds up the others too.

use std::{collections::VecDeque, sync::Arc};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// How often a turn gives way before it begins: once, and what came from the network is noticed; twice, and those whom that woke
/// have brought what they have. Each turn has more then, and so there are fewer (docs/performance.md).
const GIVES_WAY: usize = 2;

/// Does something to some of them at once.
type Work<T, E> = Box<dyn Fn(Vec<T>) -> BoxFuture<'static, Result<(), E>> + Send + Sync>;

/// Gathers what is done together.
pub struct Together<T, E> {
    work: Work<T, E>,
    /// Of one turn, at most, unless one caller brings more.
    most: usize,
    state: Mutex<State<T, E>>,
}

struct State<T, E> {
    under_way: bool,
    waiting: VecDeque<Waiting<T, E>>,
}

struct Waiting<T, E> {
    items: Vec<T>,
    answer: Answer<E>,
}

/// Whoever waits for the end.
type Answer<E> = oneshot::Sender<Result<(), E>>;

/// Takes one turn after the other, as long as something waits.
struct Turns<T, E> {
    together: Arc<Together<T, E>>,
    ended: bool,
}

impl<T, E> Drop for Turns<T, E> {
    fn drop(&mut self) {
        // The work panicked, or the process ends.
        if !self.ended {
            self.together.state.lock().under_way = false;
        }
    }
}

impl<T: Send + 'static, E: Clone + Send + 'static> Together<T, E> {
    /// Has `work` done to what is given, some `most` at once.
    pub fn new(
        most: usize,
        work: impl Fn(Vec<T>) -> BoxFuture<'static, Result<(), E>> + Send + Sync + 'static,
    ) -> Arc<Self> {
        let state = Mutex::new(State { under_way: false, waiting: VecDeque::new() });
        Arc::new(Self { work: Box::new(work), most, state })
    }

    /// Has it done, and says how that ended. Dropped before its turn, it is not done; dropped later, it is. `None` if the work
    /// panicked.
    pub async fn run(self: &Arc<Self>, items: Vec<T>) -> Option<Result<(), E>> {
        let (answer, answered) = oneshot::channel();
        if let Some(turns) = self.add(Waiting { items, answer }) {
            tokio::spawn(turns.take());
        }
        answered.await.ok()
    }

    fn add(self: &Arc<Self>, waiting: Waiting<T, E>) -> Option<Turns<T, E>> {
        let mut state = self.state.lock();
        state.waiting.push_back(waiting);
        if state.under_way {
            return None;
        }
        state.under_way = true;
        Some(Turns { together: self.clone(), ended: false })
    }
}

impl<T, E: Clone> Turns<T, E> {
    async fn take(mut self) {
        loop {
            // Whoever is about to bring something goes first.
            for _ in 0..GIVES_WAY {
                tokio::task::yield_now().await;
            }
            let Some((items, answers)) = self.next() else { return };
            let result = (self.together.work)(items).await;
            for answer in answers {
                // Whoever went away does not want to know.
                let _ = answer.send(result.clone());
            }
        }
    }

    /// What is to be done next. `None` if nothing waits: then this has ended, before anybody can count on it.
    fn next(&mut self) -> Option<(Vec<T>, Vec<Answer<E>>)> {
        let mut state = self.together.state.lock();
        let (mut items, mut answers) = (Vec::new(), Vec::new());
        while items.len() < self.together.most
            && let Some(next) = state.waiting.pop_front()
        {
            if !next.answer.is_closed() {
                items.extend(next.items);
                answers.push(next.answer);
            }
        }
        if answers.is_empty() {
            state.under_way = false;
            self.ended = true;
            return None;
        }
        Some((items, answers))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::future::join_all;
    use tokio::sync::Semaphore;

    use super::*;

    /// Work that ends when it is allowed to, and what it was given.
    struct Rig {
        together: Arc<Together<u32, &'static str>>,
        allowed: Arc<Semaphore>,
        done: Arc<Mutex<Vec<Vec<u32>>>>,
    }

    fn rig(most: usize) -> Rig {
        let (allowed, done) = (Arc::new(Semaphore::new(0)), Arc::new(Mutex::new(Vec::new())));
        let inner = (allowed.clone(), done.clone());
        let together = Together::new(most, move |items: Vec<u32>| {
            let (allowed, done) = inner.clone();
            Box::pin(async move {
                allowed.acquire().await.unwrap().forget();
                let fails = items.contains(&13);
                done.lock().push(items);
                if fails { Err("unlucky") } else { Ok(()) }
            })
        });
        Rig { together, allowed, done }
    }

    type Running = Vec<tokio::task::JoinHandle<Option<Result<(), &'static str>>>>;

    impl Rig {
        /// Has each of these done, one after the other.
        async fn begin(&self, items: impl IntoIterator<Item = u32>) -> Running {
            let mut running = Vec::new();
            for n in items {
                let together = self.together.clone();
                running.push(tokio::spawn(async move { together.run(vec![n]).await }));
                // The one thread of the test goes on with this when it has nothing else to do.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            running
        }

        /// Lets all of them end.
        async fn end(&self, running: Running) -> Vec<Option<Result<(), &'static str>>> {
            self.allowed.add_permits(running.len());
            join_all(running).await.into_iter().map(|ended| ended.unwrap()).collect()
        }

        fn done(&self) -> Vec<Vec<u32>> {
            let mut done = self.done.lock().clone();
            done.sort();
            done
        }
    }

    #[tokio::test]
    async fn what_comes_while_others_are_under_way_goes_together() {
        let rig = rig(100);
        let running = rig.begin(0..4).await;
        assert_eq!(rig.end(running).await, [Some(Ok(())); 4]);
        assert_eq!(rig.done(), [vec![0], vec![1, 2, 3]]);
    }

    #[tokio::test]
    async fn a_turn_has_no_more_than_it_may_and_all_of_it_end_alike() {
        let rig = rig(3);
        let running = rig.begin([0, 10, 11, 12, 13, 14]).await;
        let answers = rig.end(running).await;
        assert_eq!(answers[..4], [Some(Ok(())); 4]);
        assert_eq!(answers[4..], [Some(Err("unlucky")); 2]);
        assert_eq!(rig.done(), [vec![0], vec![10, 11, 12], vec![13, 14]]);
        let ended = async {
            while rig.together.state.lock().under_way {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), ended).await.expect("the turns end");
        let running = rig.begin([1]).await;
        assert_eq!(rig.end(running).await, [Some(Ok(()))], "and it goes on");
    }

    #[tokio::test]
    async fn what_nobody_waits_for_any_more_is_left_out() {
        let rig = rig(100);
        let running = rig.begin([0]).await;
        let given_up = tokio::time::timeout(Duration::from_millis(1), rig.together.run(vec![99])).await;
        assert!(given_up.is_err());
        assert_eq!(rig.end(running).await, [Some(Ok(()))]);
        assert_eq!(rig.done(), [[0]]);
    }
}
