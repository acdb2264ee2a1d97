//! What is to be done about one key, given what each server of the shard holds under it. Pure.

use crate::model::{Checksum, Listed, Operation, Version};

/// What a server holds under a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// Nothing.
    Nothing,
    /// A blob.
    Blob {
        /// Which write it is.
        version: Version,
        /// Of its bytes.
        checksum: Option<Checksum>,
        /// Bytes.
        length: u64,
    },
    /// It was deleted by that version.
    Deleted(Version),
    /// A blob, on a server that keeps no versions; its length, where the server says it.
    Unversioned(Option<u64>),
}

impl From<&Listed> for Held {
    fn from(listed: &Listed) -> Self {
        let Listed { version, length, checksum, deleted, .. } = *listed;
        if deleted { Self::Deleted(version) } else { Self::Blob { version, checksum, length } }
    }
}

impl Held {
    /// The greater version counts, and a delete before a blob of the same version.
    fn rank(&self) -> Option<(Version, bool)> {
        match self {
            Self::Blob { version, .. } => Some((*version, false)),
            Self::Deleted(version) => Some((*version, true)),
            Self::Nothing | Self::Unversioned(_) => None,
        }
    }
}

/// What follows for one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Same,
    /// These servers need what the newest write left.
    Lack {
        /// What they need.
        op: Operation,
        /// The newest write.
        version: Version,
        /// Bytes of it.
        length: u64,
        /// Servers that hold it.
        holders: Vec<usize>,
        /// Servers that do not.
        lacking: Vec<usize>,
    },
    /// Servers hold different bytes under one version, so nobody knows which are right.
    Conflict(Version),
}

/// Decides. A delete made before `deletes_since_ms` may have been forgotten by any server: that it is not there is no
/// difference, as long as there is nothing that it should have deleted.
pub fn verdict(held: &[Held], deletes_since_ms: u64) -> Verdict {
    let newest = held.iter().filter(|held| held.rank().is_some()).max_by_key(|held| held.rank());
    let Some(newest) = newest else { return Verdict::Same };
    let servers = |which: &dyn Fn(&Held) -> bool| -> Vec<usize> {
        (0..held.len()).filter(|at| which(&held[*at])).collect()
    };
    let (op, version, length, lacking) = match *newest {
        Held::Blob { version, checksum, length } => {
            let differs = |held: &Held| matches!(held, Held::Blob { version: v, checksum: c, .. } if *v == version && *c != checksum);
            if held.iter().any(differs) {
                return Verdict::Conflict(version);
            }
            let lacks = |held: &Held| match held {
                Held::Unversioned(held) => held.is_some_and(|held| held != length),
                held => held.rank() < newest.rank(),
            };
            (Operation::Copy, version, length, servers(&lacks))
        }
        Held::Deleted(version) => {
            let is_forgotten = version.unix_ms() < deletes_since_ms;
            let lacks = |held: &Held| match held {
                Held::Nothing => !is_forgotten,
                Held::Deleted(held) => *held < version && !is_forgotten,
                Held::Blob { .. } | Held::Unversioned(_) => true,
            };
            (Operation::Delete, version, 0, servers(&lacks))
        }
        Held::Nothing | Held::Unversioned(_) => return Verdict::Same,
    };
    if lacking.is_empty() {
        return Verdict::Same;
    }
    Verdict::Lack { op, version, length, holders: servers(&|held| held.rank() == newest.rank()), lacking }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(n: u64) -> Version {
        Version::from_parts(n, 0)
    }

    fn blob(n: u64) -> Held {
        Held::Blob { version: version(n), checksum: Some(Checksum(n)), length: n }
    }

    fn deleted(n: u64) -> Held {
        Held::Deleted(version(n))
    }

    fn lack(op: Operation, n: u64, holders: &[usize], lacking: &[usize]) -> Verdict {
        let length = if op == Operation::Copy { n } else { 0 };
        Verdict::Lack { op, version: version(n), length, holders: holders.into(), lacking: lacking.into() }
    }

    #[test]
    fn the_newest_write_is_what_all_should_hold() {
        use Held::Nothing;
        use Operation::{Copy, Delete};
        for (held, expected) in [
            (vec![Nothing, Nothing], Verdict::Same),
            (vec![blob(5), blob(5)], Verdict::Same),
            (vec![deleted(5), deleted(5)], Verdict::Same),
            (vec![blob(5), Nothing, blob(5)], lack(Copy, 5, &[0, 2], &[1])),
            (vec![blob(4), blob(5), deleted(3)], lack(Copy, 5, &[1], &[0, 2])),
            (vec![deleted(5), blob(4), Nothing], lack(Delete, 5, &[0], &[1, 2])),
            (vec![deleted(5), blob(5)], lack(Delete, 5, &[0], &[1])),
            (vec![deleted(5), deleted(4)], lack(Delete, 5, &[0], &[1])),
        ] {
            assert_eq!(verdict(&held, 0), expected, "{held:?}");
        }
    }

    #[test]
    fn a_delete_that_may_be_forgotten_is_no_difference_but_what_it_deleted_is() {
        assert_eq!(verdict(&[deleted(5), Held::Nothing], 6), Verdict::Same);
        assert_eq!(verdict(&[deleted(5), deleted(4)], 6), Verdict::Same);
        assert_eq!(verdict(&[deleted(5), Held::Nothing], 5), lack(Operation::Delete, 5, &[0], &[1]));
        assert_eq!(verdict(&[deleted(5), blob(4), Held::Nothing], 6), lack(Operation::Delete, 5, &[0], &[1]));
    }

    #[test]
    fn servers_without_versions_are_judged_by_what_they_say() {
        use Held::{Nothing, Unversioned};
        use Operation::{Copy, Delete};
        assert_eq!(verdict(&[blob(5), Unversioned(Some(5))], 0), Verdict::Same);
        assert_eq!(verdict(&[blob(5), Unversioned(None)], 0), Verdict::Same);
        assert_eq!(verdict(&[blob(5), Unversioned(Some(4))], 0), lack(Copy, 5, &[0], &[1]));
        assert_eq!(verdict(&[deleted(5), Unversioned(Some(4))], 9), lack(Delete, 5, &[0], &[1]));
        assert_eq!(verdict(&[Nothing, Unversioned(Some(4))], 0), Verdict::Same, "nobody can list it");
    }

    #[test]
    fn two_blobs_of_one_version_are_left_to_people() {
        let other = Held::Blob { version: version(5), checksum: Some(Checksum(9)), length: 5 };
        assert_eq!(verdict(&[blob(5), other, Held::Nothing], 0), Verdict::Conflict(version(5)));
        assert_eq!(verdict(&[blob(5), other, deleted(6)], 0), lack(Operation::Delete, 6, &[2], &[0, 1]));
    }
}
