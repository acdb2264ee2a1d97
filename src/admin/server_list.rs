//! A list of servers as it is typed and printed: `1,4`.

use std::{fmt, str::FromStr};

use crate::model::{ServerId, id::IdError};

/// At least one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerList(pub Vec<ServerId>);

impl FromStr for ServerList {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        text.split(',').map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Display for ServerList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&join(&self.0, ","))
    }
}

/// The ids with something between them.
pub fn join<'a>(servers: impl IntoIterator<Item = &'a ServerId>, between: &str) -> String {
    servers.into_iter().map(ServerId::as_str).collect::<Vec<_>>().join(between)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_written() {
        assert_eq!("1,node-b".parse::<ServerList>().unwrap().to_string(), "1,node-b");
        assert!("1,,4".parse::<ServerList>().is_err() && "".parse::<ServerList>().is_err());
    }
}
