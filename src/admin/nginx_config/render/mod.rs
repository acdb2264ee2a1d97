//! The configuration of nginx for the read path, rendered from a map. Pure: no I/O, the same map gives the same text.
//!
//! What each line of it is for stands in `template.conf` itself; this file fills in what depends on the map.
//! `tests/system/nginx_read_path.rs` runs it under a real nginx.

use std::{fmt::Write, net::Ipv6Addr};

use crate::model::{ClusterMap, Server, ServerId, Shard, ShardId};

const TEMPLATE: &str = include_str!("template.conf");

/// What the map does not say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Where nginx listens, in its own words: `8080`, `127.0.0.1:8080`, `[::]:8080`.
    pub listen: String,
}

impl Default for Options {
    /// Port 8080 on every IPv4 address: readers come from elsewhere.
    fn default() -> Self {
        Self { listen: "8080".into() }
    }
}

/// Why no configuration can be written. nginx refuses a whole file for one bad line, so nothing is left out silently.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    /// The original's add-server took any text as a host.
    #[error(
        "server {id} has {host:?} as its host, which nginx cannot use: run add-server {id} with a right URL"
    )]
    BadHost {
        /// The server.
        id: ServerId,
        /// Its host as the map has it.
        host: String,
    },
    /// The listen address would end the line it stands on.
    #[error("{0:?} is not an address to listen on: give a port or address:port")]
    BadListen(String),
}

/// A whole configuration file: one upstream per shard, with the shard's servers in the order of the map. A server that is
/// not in the map, or not read now, is left out (a comment says so); a shard without any is answered with 503.
///
/// A shard with a number for an id is found at once, however many there are. Others are regular expressions that nginx tries one
/// after the other, because its string lookup ignores case: with 1,500 of them a request takes about 40 us of CPU more. With 10,000
/// shards a worker of nginx has some 200 MiB, of which 90 is room for idle connections.
pub fn render(map: &ClusterMap, options: &Options) -> Result<String, RenderError> {
    if !is_plain(&options.listen) {
        return Err(RenderError::BadListen(options.listen.clone()));
    }
    let mut shards = String::new();
    let mut upstreams = String::new();
    for shard in map.shards.values() {
        shards += &shard_line(map, shard);
        upstreams += &upstream(map, shard)?;
    }
    let readable = |shard| map.readable(shard).count();
    let largest = map.shards.values().map(|shard| readable(shard)).max().unwrap_or(0).max(1);
    let all_reachable = map.shards.values().all(|shard| readable(shard) > 0);
    // Ids come last: one may look like a placeholder.
    Ok(TEMPLATE
        .replace("@listen@", &options.listen)
        .replace("@tries@", &largest.to_string())
        .replace("@hash_size@", &hash_size(map.shards.len()).to_string())
        .replace("@unreachable@", if all_reachable { "" } else { UNREACHABLE_GUARD })
        .replace("@shards@", &shards)
        .replace("@upstreams@", &upstreams))
}

/// Stands in the place of an upstream's name where a shard has no server that is in the map. No upstream is called so.
const UNREACHABLE: &str = "unreachable";

const UNREACHABLE_GUARD: &str = r#"        # A shard of which no server is in the map: its blobs may come back.
        if ($backpack_upstream = "unreachable") {
            return 503;
        }
"#;

/// The line of the map that recognises a shard.
fn shard_line(map: &ClusterMap, shard: &Shard) -> String {
    let known = map.readable(shard).next().is_some();
    let target = if known { upstream_name(&shard.id) } else { UNREACHABLE.to_owned() };
    let id = shard.id.as_str();
    if is_number(id) {
        format!("        \"{id}\" {target};\n")
    } else {
        format!("        \"~^{}$\" {target};\n", id_pattern(&shard.id))
    }
}

/// Text without letters, in which nginx sees nothing but text.
fn is_number(id: &str) -> bool {
    id.starts_with(|first: char| first.is_ascii_digit())
        && id.bytes().all(|byte| byte.is_ascii_digit() || b"-_.".contains(&byte))
}

/// What nginx's hash table may take for so many shards: its own 2,048, or room enough that it finds a size without a warning.
fn hash_size(shards: usize) -> usize {
    (4 * shards).next_power_of_two().max(2048)
}

fn upstream(map: &ClusterMap, shard: &Shard) -> Result<String, RenderError> {
    let mut servers = String::new();
    let mut known = 0;
    for id in &shard.servers {
        match map.servers.get(id) {
            Some(_) if !shard.is_read(id) => servers += &format!("        # server {id} is not read now\n"),
            Some(server) => {
                known += 1;
                servers += &server_line(server)?;
            }
            None => servers += &format!("        # server {id} is not in the map\n"),
        }
    }
    if known == 0 {
        return Ok(String::new());
    }
    Ok(format!(
        "    upstream {} {{\n{servers}        keepalive 64;\n        keepalive_timeout 4s;\n    }}\n",
        upstream_name(&shard.id)
    ))
}

fn server_line(server: &Server) -> Result<String, RenderError> {
    if !is_host(&server.host) {
        return Err(RenderError::BadHost { id: server.id.clone(), host: server.host.clone() });
    }
    Ok(format!("        server {} max_fails=3 fail_timeout=3s;\n", server.authority()))
}

/// A pattern that matches the id as sent: its own bytes, or, where they are not ASCII, percent-encoded as URLs have it.
fn id_pattern(id: &ShardId) -> String {
    let mut plain = String::new();
    let mut encoded = String::new();
    for char in id.as_str().chars() {
        if char.is_ascii() {
            if !char.is_ascii_alphanumeric() && !"-_".contains(char) {
                plain.push('\\');
                encoded.push('\\');
            }
            plain.push(char);
            encoded.push(char);
        } else {
            plain.push(char);
            // Hexadecimal digits of either case; the rest of the id keeps its case.
            encoded += "(?i:";
            push_hex(&mut encoded, '%', char);
            encoded.push(')');
        }
    }
    if plain == encoded { plain } else { format!("(?:{plain}|{encoded})") }
}

/// nginx compares the names of upstreams without regard to case, and they end up in the `Host` header. So capitals and
/// everything unusual are written as `_` and two hexadecimal digits per byte.
fn upstream_name(id: &ShardId) -> String {
    let mut name = String::from("backpack-shard-");
    for char in id.as_str().chars() {
        if char.is_ascii_lowercase() || char.is_ascii_digit() || char == '-' || char == '.' {
            name.push(char);
        } else {
            push_hex(&mut name, '_', char);
        }
    }
    name
}

fn push_hex(text: &mut String, mark: char, char: char) {
    for byte in char.encode_utf8(&mut [0; 4]).bytes() {
        // Writing to a String cannot fail.
        let _ = write!(text, "{mark}{byte:02x}");
    }
}

/// A name or an address, without what has a meaning in nginx's language.
fn is_host(host: &str) -> bool {
    if host.contains(':') {
        return host.parse::<Ipv6Addr>().is_ok();
    }
    !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// One word of nginx's language, or several with single blanks between (`8080 reuseport`).
fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:[]*=/ ".contains(&byte))
}

#[cfg(test)]
mod tests;
