//! Names of servers, shards and pools: any short text that is safe in a URL, a znode path, a Redis key and
//! a comma-separated list, for ids are used in all four.

use std::{fmt, str::FromStr, sync::Arc};

/// An id longer than this is refused: ids stand in every task, log line and metric label.
pub const MAX_ID_BYTES: usize = 128;

/// Why a text is no id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// An id names something; the empty text names nothing.
    #[error("an id must not be empty")]
    Empty,
    /// Longer than [`MAX_ID_BYTES`].
    #[error("an id has at most {MAX_ID_BYTES} bytes, this one has {0}")]
    TooLong(usize),
    /// A character that has a meaning in URLs, znode paths, Redis keys or lists of ids.
    #[error("an id must not contain {0:?}: use letters, digits, '-', '_' and '.'")]
    Forbidden(char),
    /// `.` and `..` mean something else in a path.
    #[error("an id must not be '.' or '..'")]
    Dots,
}

fn check(text: &str) -> Result<(), IdError> {
    if text.is_empty() {
        return Err(IdError::Empty);
    }
    if text.len() > MAX_ID_BYTES {
        return Err(IdError::TooLong(text.len()));
    }
    if text == "." || text == ".." {
        return Err(IdError::Dots);
    }
    let forbidden = |c: &char| c.is_control() || c.is_whitespace() || "/:,?#%\"'\\{}[]<>;$*|&`^".contains(*c);
    match text.chars().find(forbidden) {
        Some(c) => Err(IdError::Forbidden(c)),
        None => Ok(()),
    }
}

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                check(text)?;
                Ok(Self(text.into()))
            }
        }

        super::text::stands_as_text!($name);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

id_type! {
    /// A server of the map.
    ServerId
}
id_type! {
    /// A shard of the map; the part before the first colon in `/<shard>:<key>`.
    ShardId
}
id_type! {
    /// A named group of shards.
    PoolName
}

impl Default for PoolName {
    /// `default`, the pool of every shard that names none.
    fn default() -> Self {
        Self("default".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_the_original_uses() {
        for text in ["1", "photos-a", "node_7.example", "фото"] {
            assert_eq!(text.parse::<ShardId>().unwrap().as_str(), text);
        }
    }

    #[test]
    fn refuses_what_would_be_read_as_something_else() {
        for text in ["", "a:b", "a/b", "a,b", "a b", "..", "a\n", "a?b", &"x".repeat(129)] {
            assert!(text.parse::<ShardId>().is_err(), "{text:?}");
        }
    }
}
