//! What must be true of a load in the end, whatever was killed meanwhile.

use std::{collections::BTreeMap, thread, time::Duration};

use super::{Answer, OVERWRITES_SHARD, Record, Upload};
use crate::support::{cluster::Cluster, http::Reply, wait::wait_for};

/// Readers that check at the same time.
const READERS: usize = 4;

/// nginx leaves a server that failed alone for three seconds; that it is back is found out by a reader then.
const NGINX_FORGIVES_WITHIN: Duration = Duration::from_secs(60);

/// Uploads of one key in one shard.
struct History<'a> {
    shard: &'a str,
    key: &'a str,
    /// The acknowledged one with the greatest version.
    last: &'a Upload,
    version: &'a str,
    /// Those of the key of which nobody knows whether they are stored.
    unknown: Vec<&'a Upload>,
}

impl Record {
    /// What every load ends with: all that was acknowledged can be read, then copied, then nothing is left to do; nothing
    /// was given up, and no program has died.
    pub fn assert_nothing_is_lost(&self, cluster: &Cluster) {
        println!("{self:?}");
        self.assert_readable(cluster);
        cluster.wait_drained();
        self.assert_copied(cluster);
        assert_eq!(cluster.dead_letters(), []);
        cluster.assert_all_run();
    }

    /// The used bytes of these shards of the default pool are what was stored in them, and those of the overwritten keys
    /// are once they were recounted.
    pub fn assert_all_is_counted(&self, cluster: &Cluster, shards: &[&str]) {
        let (least, most) = self.used();
        let counted: u64 = shards.iter().map(|shard| cluster.used(shard)).sum();
        println!("counted {counted}, stored {least} to {most}");
        assert!((least..=most).contains(&counted), "counted {counted}, stored {least} to {most}");

        let overwritten = self.histories().into_iter().filter(|history| history.last.overwrites);
        let overwritten: Vec<_> = overwritten.collect();
        // Where an upload failed in the client's eyes, nobody knows whose bytes are there.
        if overwritten.iter().all(|history| history.unknown.is_empty()) {
            cluster.admin.ok("recount", ["--shard", OVERWRITES_SHARD]);
            let stored: usize = overwritten.iter().map(|history| history.last.size).sum();
            assert_eq!(cluster.used(OVERWRITES_SHARD), stored as u64, "recounted");
        }
    }

    /// Every failure was said in the way failures are said. `broken`: connections may have broken off.
    pub fn assert_failures_are_clean(&self, broken: bool) {
        for upload in &self.uploads {
            match &upload.answer {
                Answer::Acknowledged { .. } => {}
                Answer::Refused { status, error } => {
                    let clean = matches!(status, 502 | 503) && error.is_some();
                    assert!(clean, "{} (write level {}) got {:?}", upload.key, upload.level, upload.answer);
                }
                Answer::Broken(error) => assert!(broken, "{} got no answer: {error}", upload.key),
            }
        }
    }

    /// Every acknowledged upload can be read through nginx.
    pub fn assert_readable(&self, cluster: &Cluster) {
        let single = |history: &History<'_>| !history.last.overwrites;
        self.check_each(single, |history| {
            let reply = history.read(cluster);
            assert!(reply.body == history.last.bytes(), "{} has other bytes", history.place());
        });
    }

    /// Every acknowledged upload is on every server of its shard, and through nginx. A key that was overwritten has its
    /// last acknowledged bytes, or those of a later upload that failed in the client's eyes.
    pub fn assert_copied(&self, cluster: &Cluster) {
        self.check_each(
            |_| true,
            |history| {
                let place = history.place();
                for (server, reply) in cluster.copies(history.shard, history.key) {
                    history.check(&reply, &format!("{place} on server {server}"));
                }
                history.check(&history.read(cluster), &format!("{place} through nginx"));
            },
        );
    }

    /// Bytes that the acknowledged uploads add to all shards of the default pool, and the most that it can be: an upload
    /// that was refused may be stored, and counted, where it says so or where the answer broke off.
    pub fn used(&self) -> (u64, u64) {
        let (mut least, mut most) = (0, 0);
        for upload in self.uploads.iter().filter(|upload| !upload.overwrites) {
            let size = upload.size as u64;
            let (surely, perhaps) = match &upload.answer {
                Answer::Acknowledged { .. } => (true, true),
                Answer::Refused { error, .. } => {
                    let error = error.as_deref().unwrap_or_default();
                    let unsafe_there = error.contains("neither the queue");
                    (error.starts_with("Done on") && !unsafe_there, error.starts_with("Done on"))
                }
                Answer::Broken(_) => (false, true),
            };
            least += if surely { size } else { 0 };
            most += if perhaps { size } else { 0 };
        }
        (least, most)
    }

    fn histories(&self) -> Vec<History<'_>> {
        let mut histories = BTreeMap::<(&str, &str), History<'_>>::new();
        for (upload, shard, version) in self.acknowledged() {
            let key = upload.key.as_str();
            let new = || History { shard, key, last: upload, version, unknown: Vec::new() };
            let history = histories.entry((shard, key)).or_insert_with(new);
            if version > history.version {
                (history.last, history.version) = (upload, version);
            }
        }
        let mut histories: Vec<_> = histories.into_values().collect();
        for history in &mut histories {
            let failed = |upload: &&Upload| upload.key == history.key && !upload.is_acknowledged();
            history.unknown = self.uploads.iter().filter(failed).collect();
        }
        histories
    }

    fn check_each(&self, of: impl Fn(&History<'_>) -> bool, check: impl Fn(&History<'_>) + Sync) {
        let histories: Vec<_> = self.histories().into_iter().filter(of).collect();
        thread::scope(|scope| {
            for part in histories.chunks(histories.len().div_ceil(READERS).max(1)) {
                scope.spawn(|| part.iter().for_each(&check));
            }
        });
    }
}

impl History<'_> {
    fn place(&self) -> String {
        format!("{}:{}", self.shard, self.key)
    }

    /// Through nginx.
    fn read(&self, cluster: &Cluster) -> Reply {
        wait_for(&format!("{} can be read", self.place()), NGINX_FORGIVES_WITHIN, || {
            let reply = cluster.read(self.shard, self.key);
            (reply.status == 200).then_some(reply)
        })
    }

    fn check(&self, reply: &Reply, place: &str) {
        assert_eq!(reply.status, 200, "{place}");
        let version = reply.header("x-backpack-version").expect("our own nodes say the version");
        assert!(version >= self.version, "{place} has version {version}, older than the acknowledged one");
        let right = if version == self.version {
            reply.body == self.last.bytes()
        } else {
            self.unknown.iter().any(|upload| reply.body == upload.bytes())
        };
        assert!(right, "{place}, version {version}, has bytes that nobody uploaded under it");
    }
}
