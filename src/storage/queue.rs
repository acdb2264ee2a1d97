//! Writes that wait for the writer. Those who put one in wait elsewhere, so it is as long as they are many.

use std::{collections::VecDeque, time::Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

/// A queue with one reader, which waits on a thread of its own.
#[derive(Debug)]
pub struct Queue<T> {
    state: Mutex<State<T>>,
    wake: Condvar,
}

#[derive(Debug)]
struct State<T> {
    waiting: VecDeque<T>,
    stopped: bool,
    /// The reader sleeps until that many wait.
    wanted: usize,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            state: Mutex::new(State { waiting: VecDeque::new(), stopped: false, wanted: 0 }),
            wake: Condvar::new(),
        }
    }
}

impl<T> Queue<T> {
    /// Puts one in; gives it back if the queue was stopped.
    pub fn push(&self, item: T) -> Result<(), T> {
        let mut state = self.state.lock();
        if state.stopped {
            return Err(item);
        }
        state.waiting.push_back(item);
        let is_enough = state.waiting.len() >= state.wanted;
        drop(state);
        if is_enough {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Takes all that wait, at most `limit`. Waits for the first as long as it takes, but only `until` then for as many
    /// as are `expected`. `None` once it was stopped and is empty.
    pub fn take(&self, limit: usize, expected: usize, until: Instant) -> Option<Vec<T>> {
        let mut state = self.state.lock();
        state.wanted = 1;
        while state.waiting.is_empty() {
            if state.stopped {
                return None;
            }
            self.wake.wait(&mut state);
        }
        // Those who are about to put one in and wait for this core go first.
        MutexGuard::unlocked(&mut state, std::thread::yield_now);
        state.wanted = expected.min(limit);
        while state.waiting.len() < state.wanted && !state.stopped {
            if self.wake.wait_until(&mut state, until).timed_out() {
                break;
            }
        }
        let count = state.waiting.len().min(limit);
        Some(state.waiting.drain(..count).collect())
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.state.lock().waiting.len()
    }

    /// Takes no more; what waits is still taken out.
    pub fn stop(&self) {
        self.state.lock().stopped = true;
        self.wake.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_waits_comes_out_together_and_in_order() {
        let queue = Queue::default();
        for n in 0..5 {
            queue.push(n).unwrap();
        }
        assert_eq!(queue.take(3, 3, Instant::now()), Some(vec![0, 1, 2]));
        queue.stop();
        assert_eq!(queue.push(9), Err(9));
        assert_eq!(queue.take(3, 3, Instant::now() + Duration::from_secs(60)), Some(vec![3, 4]));
        assert_eq!(queue.take(3, 3, Instant::now()), None);
    }

    #[test]
    fn those_who_are_expected_are_waited_for_until_then_and_no_longer() {
        let queue = std::sync::Arc::new(Queue::default());
        let later = || Instant::now() + Duration::from_secs(60);
        queue.push(1).unwrap();
        let reader = std::thread::spawn({
            let (queue, until) = (queue.clone(), later());
            move || queue.take(9, 3, until)
        });
        queue.push(2).unwrap();
        queue.push(3).unwrap();
        assert_eq!(reader.join().unwrap(), Some(vec![1, 2, 3]));
        queue.push(4).unwrap();
        assert_eq!(queue.take(9, 1, later()), Some(vec![4]));
        queue.push(5).unwrap();
        assert_eq!(queue.take(9, 2, Instant::now()), Some(vec![5]));
    }

    #[test]
    fn a_stop_wakes_the_reader() {
        let queue = std::sync::Arc::new(Queue::<u8>::default());
        let reader = std::thread::spawn({
            let queue = queue.clone();
            move || queue.take(1, 1, Instant::now())
        });
        queue.stop();
        assert_eq!(reader.join().unwrap(), None);
    }
}
