//! What was asked of an engine, when, and what was answered; and so what it may hold after a power cut.

use super::super::{
    Engine, Options, StorageError, SyncMode,
    compact_tests::{Held, Model, body, get},
};

/// A write or a delete.
#[derive(Debug, Clone)]
pub struct Deed {
    pub name: String,
    /// The version.
    pub n: u64,
    /// Of the blob; none for a delete.
    pub length: Option<usize>,
    /// How many events there were when it was asked for.
    pub asked: usize,
    /// And when it was answered with success.
    pub acknowledged: Option<usize>,
}

impl Deed {
    /// The greater one stays.
    fn rank(&self) -> (u64, bool) {
        (self.n, self.length.is_none())
    }

    fn is(&self, held: &Held) -> bool {
        let Some((n, bytes)) = held else { return false };
        let expected = self.length.map(|length| body(&self.name, self.n, length));
        *n == self.n && *bytes == expected
    }
}

/// All deeds so far.
#[derive(Debug, Clone, Default)]
pub struct History {
    pub deeds: Vec<Deed>,
}

impl History {
    /// Only what was known when there were that many events.
    pub fn at(&self, position: usize) -> Self {
        let mut deeds: Vec<Deed> = self.deeds.iter().filter(|deed| deed.asked <= position).cloned().collect();
        for deed in &mut deeds {
            deed.acknowledged = deed.acknowledged.filter(|at| *at <= position);
        }
        Self { deeds }
    }

    /// Whether a key may hold that: what was acknowledged last, or what was asked for after it.
    fn allows(&self, name: &str, held: &Held, options: &Options) -> bool {
        let of_key = || self.deeds.iter().filter(|deed| deed.name == name);
        let last = of_key().filter(|deed| deed.acknowledged.is_some()).max_by_key(|deed| deed.rank());
        let last = last.filter(|_| options.sync != SyncMode::Never);
        let mut may = of_key().filter(|deed| last.is_none_or(|last| deed.rank() >= last.rank()));
        if held.is_none() {
            // A tombstone goes when its age has passed.
            return last.is_none()
                || options.tombstone_age.is_zero() && may.any(|deed| deed.length.is_none());
        }
        may.any(|deed| deed.is(held))
    }

    /// Reads all keys, sees that each holds what it may, and says what that is. Only where nothing is synced a key may be
    /// damaged; it is left out.
    pub async fn settle(&self, engine: &Engine, names: &[String], options: &Options) -> Model {
        let mut model = Model::new();
        for name in names {
            let held = match get(engine, name).await {
                Ok(held) => held,
                Err(StorageError::Damaged(_)) if options.sync == SyncMode::Never => continue,
                Err(error) => panic!("{name}: {error}"),
            };
            assert!(
                self.allows(name, &held, options),
                "{name} holds {:?}, but there was {:#?}",
                held.map(|(n, bytes)| (n, bytes.map(|bytes| bytes.len()))),
                self.deeds.iter().filter(|deed| deed.name == *name).collect::<Vec<_>>(),
            );
            if let Some((n, bytes)) = held {
                model.insert(name.clone(), (n, bytes.map(|bytes| bytes.len())));
            }
        }
        model
    }
}
