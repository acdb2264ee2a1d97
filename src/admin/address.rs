//! Addresses as people type them: of servers (`http://host:port`) and of Redis servers (`host:port`).

use std::{fmt, str::FromStr};

use crate::model::{QueueServer, Server, ServerId};

/// The port of a server's URL that names none.
const HTTP_PORT: u16 = 80;

/// The port of a Redis server that names none.
const REDIS_PORT: u16 = 6379;

/// Why a text is no address that can be used here. The sentence says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AddressError(String);

fn refuse<T>(sentence: impl Into<String>) -> Result<T, AddressError> {
    Err(AddressError(sentence.into()))
}

/// Where a server listens, as given to `add-server`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerUrl {
    /// As it was typed.
    typed: String,
    /// Host name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl ServerUrl {
    /// The server of that id that listens there.
    pub fn server(&self, id: &ServerId) -> Server {
        Server { id: id.clone(), host: self.host.clone(), port: self.port }
    }
}

impl FromStr for ServerUrl {
    type Err = AddressError;

    /// Reads `http://host:port`, with a scheme or without; port 80 where none is named.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let rest = match text.split_once("://") {
            None => text,
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some((scheme, _)) if scheme.eq_ignore_ascii_case("https") => {
                return refuse("servers of a shard speak plain HTTP: write http://host:port");
            }
            Some((scheme, _)) => {
                return refuse(format!("{scheme}:// is not spoken here: write http://host:port"));
            }
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains('@') {
            return refuse("servers take no user or password: write http://host:port");
        }
        if rest.contains(['/', '?', '#']) {
            return refuse("a server is a host and a port, without path or query: write http://host:port");
        }
        let (host, port) = host_and_port(rest)?;
        Ok(Self { typed: text.to_owned(), host, port: port.unwrap_or(HTTP_PORT) })
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.typed)
    }
}

/// Reads one Redis server: `host:port`, `redis://host:port`, or `rediss://host:port` for TLS; port 6379 where none is named.
pub fn redis_server(text: &str) -> Result<QueueServer, AddressError> {
    let (tls, rest) = match text.split_once("://") {
        None => (false, text),
        Some(("redis", rest)) => (false, rest),
        Some(("rediss", rest)) => (true, rest),
        Some((scheme, _)) => {
            return refuse(format!(
                "{scheme}:// is no Redis: write host:port, or rediss://host:port for TLS"
            ));
        }
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains('@') {
        // Everybody who reads the map would read it too.
        return refuse(
            "a password has no place in the map: set BACKPACK_REDIS_PASSWORD (or BACKPACK_REDIS_PASSWORD_FILE), and \
             BACKPACK_REDIS_USERNAME where there is a user, for every program instead",
        );
    }
    if rest.contains(['/', '?', '#']) {
        return refuse("a Redis server is a host and a port; its database is always 0: write host:port");
    }
    let (host, port) = host_and_port(rest)?;
    Ok(QueueServer { host, port: port.unwrap_or(REDIS_PORT), tls })
}

/// Splits `host`, `host:port`, `[::1]:port`.
fn host_and_port(text: &str) -> Result<(String, Option<u16>), AddressError> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let Some((host, after)) = rest.split_once(']') else {
                return refuse(format!("{text:?} has a '[' without ']'"));
            };
            if host.parse::<std::net::Ipv6Addr>().is_err() {
                return refuse(format!("{host:?} is no IPv6 address"));
            }
            (host, if after.is_empty() { None } else { Some(after.strip_prefix(':').unwrap_or("?")) })
        }
        None if text.matches(':').count() > 1 => {
            return refuse(format!(
                "{text:?} is not host:port; an IPv6 address stands in brackets: [::1]:10001"
            ));
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    if host.is_empty() || !host.bytes().all(plain) {
        return refuse(format!("{host:?} is no host name: write host:port"));
    }
    let Some(port) = port else { return Ok((host.to_owned(), None)) };
    match port.parse::<u16>() {
        Ok(number) if number > 0 => Ok((host.to_owned(), Some(number))),
        _ => refuse(format!("{port:?} is no port: a number from 1 to 65535 is")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(text: &str) -> Result<(String, u16), String> {
        text.parse::<ServerUrl>().map(|url| (url.host, url.port)).map_err(|error| error.to_string())
    }

    #[test]
    fn servers_are_read_as_the_original_reads_them() {
        for (text, host, port) in [
            ("http://127.0.0.1:10001", "127.0.0.1", 10001),
            ("127.0.0.1:10003", "127.0.0.1", 10003),
            ("http://one", "one", 80),
            ("one", "one", 80),
            ("HTTP://one:10001/", "one", 10001),
            ("http://[::1]:10001", "::1", 10001),
            ("[fe80::1]", "fe80::1", 80),
            ("node_7.example.org:80", "node_7.example.org", 80),
        ] {
            assert_eq!(server(text), Ok((host.to_owned(), port)), "{text}");
        }
        assert_eq!("127.0.0.1:10003".parse::<ServerUrl>().unwrap().to_string(), "127.0.0.1:10003");
    }

    #[test]
    fn what_is_no_server_is_refused_with_a_sentence() {
        for (text, part) in [
            ("https://one:10001", "plain HTTP"),
            ("ftp://one", "ftp:// is not spoken"),
            ("http://one:10001/blobs", "without path"),
            ("http://one?x", "without path or query"),
            ("http://user:secret@one:10001", "no user or password"),
            ("http://", "no host name"),
            ("one:0", "no port"),
            ("one:99999", "no port"),
            ("one:", "no port"),
            ("one:http", "no port"),
            ("::1", "brackets"),
            ("[::1", "without ']'"),
            ("[one]:80", "no IPv6"),
            ("[::1]80", "no port"),
            ("one two", "no host name"),
            ("", "no host name"),
        ] {
            let refused = server(text).unwrap_err();
            assert!(refused.contains(part), "{text}: {refused}");
            assert!(!refused.contains("secret"), "{refused}");
        }
    }

    #[test]
    fn redis_servers_are_read() {
        for (text, shown) in [
            ("127.0.0.1:23001", "127.0.0.1:23001"),
            ("one", "one:6379"),
            ("redis://one:13001/", "one:13001"),
            ("rediss://one:13001", "rediss://one:13001"),
            ("[::1]:6379", "[::1]:6379"),
        ] {
            assert_eq!(redis_server(text).unwrap().to_string(), shown);
        }
    }

    #[test]
    fn a_password_in_an_address_is_refused_without_being_repeated() {
        for text in ["redis://:sesame@one:6379", "user:sesame@one", "rediss://sesame@one"] {
            let refused = redis_server(text).unwrap_err().to_string();
            assert!(refused.contains("BACKPACK_REDIS_PASSWORD") && !refused.contains("sesame"), "{refused}");
        }
        assert!(redis_server("one:6379/1").unwrap_err().to_string().contains("database"));
        assert!(redis_server("http://one").is_err());
    }
}
