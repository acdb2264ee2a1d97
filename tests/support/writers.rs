//! Writers that overwrite and delete keys of a node until it is killed, and know what it then has to hold.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use super::{
    daemon::Daemon,
    http::{Reply, Request},
    wait::{START_WITHIN, wait_until},
};

/// More than writers need on a busy machine until enough was acknowledged.
const ENOUGH_WITHIN: Duration = Duration::from_secs(120);

/// What a key holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Nothing,
    /// Bytes made from that seed.
    Blob(u64),
    Deleted,
}

/// A key: what was acknowledged last, and what was asked for since.
struct Slot {
    key: String,
    acknowledged: State,
    asked: Option<State>,
}

/// Each with keys of its own.
pub struct Writers {
    slots: Vec<Mutex<Vec<Slot>>>,
    /// Of a seed.
    bytes: fn(u64) -> Vec<u8>,
}

impl Writers {
    /// So many, with so many keys each, and how bytes are made from a seed.
    pub fn new(writers: usize, keys: usize, bytes: fn(u64) -> Vec<u8>) -> Self {
        let slot =
            |writer, n| Slot { key: format!("/{writer}/{n}"), acknowledged: State::Nothing, asked: None };
        let slots = |writer| Mutex::new((0..keys).map(|n| slot(writer, n)).collect());
        Self { slots: (0..writers).map(slots).collect(), bytes }
    }

    /// All write, and the node is killed in the midst of it once that many writes were acknowledged and the rest holds too.
    pub fn write_until_killed(&self, node: &Daemon, addr: &str, enough: usize, and: impl Fn() -> bool) {
        let (acknowledged, gone) = (AtomicUsize::new(0), AtomicBool::new(false));
        thread::scope(|scope| {
            for slots in &self.slots {
                scope.spawn(|| self.write(addr, &mut slots.lock().unwrap(), &acknowledged, &gone));
            }
            let is_enough = || acknowledged.load(Ordering::SeqCst) >= enough && and();
            wait_until("enough is acknowledged", ENOUGH_WITHIN, is_enough);
            gone.store(true, Ordering::SeqCst);
            node.kill();
        });
    }

    fn write(&self, addr: &str, slots: &mut [Slot], acknowledged: &AtomicUsize, gone: &AtomicBool) {
        loop {
            let slot = &mut slots[fastrand::usize(..slots.len())];
            let (state, request) = if fastrand::u8(..8) == 0 {
                (State::Deleted, Request::new("DELETE", addr, &slot.key))
            } else {
                let seed = fastrand::u64(..);
                (State::Blob(seed), Request::put(addr, &slot.key, (self.bytes)(seed)))
            };
            slot.asked = Some(state);
            match request.send_blocking() {
                Ok(reply) => {
                    assert!([201, 204].contains(&reply.status), "{}: {}", reply.status, reply.text());
                    (slot.acknowledged, slot.asked) = (state, None);
                    acknowledged.fetch_add(1, Ordering::SeqCst);
                }
                Err(_) => {
                    // Nothing but the kill may break a request.
                    wait_until("the node was killed", START_WITHIN, || gone.load(Ordering::SeqCst));
                    return;
                }
            }
        }
    }

    /// Every key holds what was acknowledged last, or what was asked for when the node was killed.
    pub fn check(&self, addr: &str) {
        for slots in &self.slots {
            for slot in slots.lock().unwrap().iter_mut() {
                let reply = Request::get(addr, &slot.key).send_blocking().unwrap();
                let held = [Some(slot.acknowledged), slot.asked];
                let held = held.into_iter().flatten().find(|state| self.holds(&reply, *state));
                let held = held.unwrap_or_else(|| {
                    let Slot { key, acknowledged, asked } = slot;
                    let (status, length) = (reply.status, reply.body.len());
                    panic!("{key} was {acknowledged:?}, asked {asked:?}, is {status} {length}")
                });
                (slot.acknowledged, slot.asked) = (held, None);
            }
        }
    }

    fn holds(&self, reply: &Reply, state: State) -> bool {
        match state {
            State::Nothing => reply.status == 404,
            State::Deleted => reply.status == 410,
            State::Blob(seed) => reply.status == 200 && reply.body == (self.bytes)(seed),
        }
    }

    /// The lengths of the blobs that it holds now.
    pub fn blobs(&self) -> Vec<usize> {
        let length = |slot: &Slot| match slot.acknowledged {
            State::Blob(seed) => Some((self.bytes)(seed).len()),
            _ => None,
        };
        let lengths = |slots: &Mutex<Vec<Slot>>| -> Vec<usize> {
            slots.lock().unwrap().iter().filter_map(length).collect()
        };
        self.slots.iter().flat_map(lengths).collect()
    }
}
