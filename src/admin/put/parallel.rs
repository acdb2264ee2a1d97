//! Many jobs at once, never more than a limit, until nothing is left or a stop is asked for.

use std::{
    future::Future,
    panic::resume_unwind,
    pin::Pin,
    thread::{self, JoinHandle},
};

use tokio::{sync::mpsc, task::JoinSet};

use crate::daemon::Shutdown;

/// Items found and not begun yet. Finding is quicker than uploading, so the walk waits here.
const ITEMS_WAITING: usize = 1024;

/// One item's work.
pub(super) type Job<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What is done with items. Jobs run side by side; `begin` and `settle` are called by one task.
pub(super) trait Work {
    /// What is found.
    type Item: Send + 'static;
    /// What a job gives.
    type Done: Send + 'static;

    /// Takes the next item: a job, or nothing where there is nothing to wait for.
    fn begin(&mut self, item: Self::Item) -> Option<Job<Self::Done>>;

    /// Takes what a job gave. An error ends everything, cutting off the jobs that run.
    fn settle(&mut self, done: Self::Done) -> anyhow::Result<()>;
}

/// Begins every item, up to `parallel` at once. When a stop is asked for, nothing more is begun, and what runs may
/// finish within the shutdown's drain time; then it is cut off.
pub(super) async fn carry_out<W: Work>(
    work: &mut W,
    items: impl Iterator<Item = anyhow::Result<W::Item>> + Send + 'static,
    parallel: usize,
    stop: &Shutdown,
) -> anyhow::Result<()> {
    let cut_off = async {
        stop.wait().await;
        tokio::time::sleep(stop.drain()).await;
    };
    tokio::select! {
        result = run(work, find(items), parallel, stop) => result,
        () = cut_off => Ok(()),
    }
}

async fn run<W: Work>(
    work: &mut W,
    (mut items, finder): (mpsc::Receiver<anyhow::Result<W::Item>>, JoinHandle<()>),
    parallel: usize,
    stop: &Shutdown,
) -> anyhow::Result<()> {
    let mut jobs = JoinSet::new();
    let mut more = true;
    loop {
        tokio::select! {
            biased;
            () = stop.wait(), if more => more = false,
            Some(done) = jobs.join_next() => {
                work.settle(done.unwrap_or_else(|error| resume_unwind(error.into_panic())))?;
            }
            item = items.recv(), if more && jobs.len() < parallel => match item {
                Some(item) => if let Some(job) = work.begin(item?) { jobs.spawn(job); },
                None => more = false,
            },
            else => break,
        }
    }
    // Not after a stop: the finder may hang on a dead disk. It has ended where nothing more came.
    if items.is_closed()
        && let Err(panic) = finder.join()
    {
        resume_unwind(panic);
    }
    Ok(())
}

/// Runs the finding, which blocks, on a thread of its own. It ends with the receiver. A thread and not the runtime's
/// pool: a hanging disk must not hold up the end of the process.
fn find<T: Send + 'static>(
    items: impl Iterator<Item = anyhow::Result<T>> + Send + 'static,
) -> (mpsc::Receiver<anyhow::Result<T>>, JoinHandle<()>) {
    let (sender, receiver) = mpsc::channel(ITEMS_WAITING);
    let finder = thread::spawn(move || {
        for item in items {
            if sender.blocking_send(item).is_err() {
                return;
            }
        }
    });
    (receiver, finder)
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        time::Duration,
    };

    use super::*;

    #[derive(Default)]
    struct Counting {
        running: Arc<AtomicUsize>,
        most: Arc<AtomicUsize>,
        settled: Vec<u32>,
        hang: bool,
        fail_at: Option<u32>,
    }

    impl Work for Counting {
        type Item = u32;
        type Done = u32;

        fn begin(&mut self, item: u32) -> Option<Job<u32>> {
            if item % 10 == 9 {
                return None;
            }
            let (running, most, hang) = (self.running.clone(), self.most.clone(), self.hang);
            Some(Box::pin(async move {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                if hang {
                    std::future::pending::<()>().await;
                }
                tokio::task::yield_now().await;
                running.fetch_sub(1, Ordering::SeqCst);
                item
            }))
        }

        fn settle(&mut self, done: u32) -> anyhow::Result<()> {
            anyhow::ensure!(self.fail_at != Some(done), "told to fail");
            self.settled.push(done);
            Ok(())
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn every_item_once_and_never_too_many_at_once() {
        let mut work = Counting::default();
        carry_out(&mut work, (0..5000).map(Ok), 7, &Shutdown::default()).await.unwrap();
        work.settled.sort_unstable();
        assert_eq!(work.settled, (0..5000).filter(|n| n % 10 != 9).collect::<Vec<_>>());
        assert!((2..=7).contains(&work.most.load(Ordering::SeqCst)));
    }

    #[tokio::test]
    async fn a_stop_cuts_off_what_does_not_finish() {
        let mut work = Counting { hang: true, ..Counting::default() };
        let stop = Shutdown::new(Duration::from_millis(1));
        let (most, begin) = (work.most.clone(), stop.clone());
        let watcher = tokio::spawn(async move {
            while most.load(Ordering::SeqCst) < 3 {
                tokio::task::yield_now().await;
            }
            begin.begin();
        });
        carry_out(&mut work, (0..).map(Ok), 3, &stop).await.unwrap();
        watcher.await.unwrap();
        assert!(work.settled.is_empty());
    }

    #[tokio::test]
    async fn an_error_ends_everything() {
        let mut work = Counting { fail_at: Some(5), ..Counting::default() };
        assert!(carry_out(&mut work, (0..).map(Ok), 3, &Shutdown::default()).await.is_err());
        let mut work = Counting::default();
        let panicking = (0..100).map(|n| if n == 50 { panic!("on purpose") } else { Ok(n) });
        let outcome = tokio::spawn(async move {
            carry_out(&mut Counting::default(), panicking, 3, &Shutdown::default()).await
        });
        assert!(outcome.await.unwrap_err().is_panic(), "an end of the list that is none is noticed");
        let items = (0..100).map(|n| if n == 50 { Err(anyhow::anyhow!("unreadable")) } else { Ok(n) });
        assert!(carry_out(&mut work, items, 3, &Shutdown::default()).await.is_err());
    }
}
