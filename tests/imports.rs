//! The direction of imports that `src/lib.rs` and ARCHITECTURE promise, held on the source text of `src/`.

#[path = "imports/made_up.rs"]
mod made_up;
#[path = "imports/tokens.rs"]
mod tokens;

use std::{
    fs,
    path::{Path, PathBuf},
};

use tokens::{Token, tokens};

/// The layers from the top down. A module imports only from layers below its own, so never from its neighbours.
const LAYERS: [&[&str]; 9] = [
    &["bin"],
    &["standalone"],
    &["node", "coordinator", "replicator", "gateway", "admin"],
    &["scrub"],
    &["cluster", "queue", "storage", "client"],
    &["http", "embedded"],
    &["daemon"],
    &["telemetry"],
    &["model"],
];

/// Crates that speak to something outside, each with the only place that may name it.
const DRIVERS: [(&str, &str); 4] = [
    ("zookeeper_client", "src/cluster/zookeeper"),
    ("deadpool_redis", "src/queue/redis"),
    ("redis", "src/queue/redis"),
    ("heed", "src/embedded"),
];

#[test]
fn imports_go_one_way() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = sources(&root.join("src"));
    assert!(files.len() > 10, "the sources are found");
    let found: Vec<String> = files.iter().flat_map(|file| violations_in(root, file)).collect();
    assert!(found.is_empty(), "{} imports against the direction:\n{}", found.len(), found.join("\n"));
}

fn violations_in(root: &Path, file: &Path) -> Vec<String> {
    let name = file.strip_prefix(root).unwrap().to_str().unwrap();
    violations(name, &fs::read_to_string(file).unwrap())
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// What a source file imports that it must not, as `file:line: what`.
fn violations(file: &str, text: &str) -> Vec<String> {
    let module: Vec<&str> = module_path(file);
    // The root of the library only lists its modules.
    let Some(&own) = module.first() else { return Vec::new() };
    let tokens = tokens(text);
    let mut found = Vec::new();
    if layer(own).is_none() {
        found
            .push(format!("{file}:1: the module {own} is in no layer: add it to LAYERS in tests/imports.rs"));
    }
    for (line, name) in imported_modules(&tokens, &module) {
        if let Some(problem) = judge(own, &name) {
            found.push(format!("{file}:{line}: {problem}"));
        }
    }
    for (at, token) in tokens.iter().enumerate() {
        let driver = DRIVERS.iter().find(|(driver, place)| token.text == *driver && !file.starts_with(place));
        if let Some((driver, place)) = driver.filter(|_| names_a_crate(&tokens, at)) {
            found.push(format!("{file}:{}: the driver {driver} is named only in {place}", token.line));
        }
    }
    found
}

/// `src/queue/redis/link.rs` is `["queue", "redis", "link"]`; a program is `["bin"]`, the root of the library `[]`.
fn module_path(file: &str) -> Vec<&str> {
    let path = file.trim_start_matches("src/").trim_end_matches(".rs");
    let mut parts: Vec<&str> = path.split('/').collect();
    if parts.last().is_some_and(|last| *last == "mod" || path == "lib") {
        parts.pop();
    }
    if parts.first() == Some(&"bin") { vec!["bin"] } else { parts }
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|modules| modules.contains(&module))
}

/// What is wrong with `own` importing `other`.
fn judge(own: &str, other: &str) -> Option<String> {
    match (layer(own), layer(other)) {
        _ if own == other => None,
        (_, None) if own == "bin" => None,
        (Some(from), Some(to)) if from < to => None,
        (Some(from), Some(to)) if from == to => Some(format!("{own} imports its neighbour {other}")),
        (_, Some(_)) => Some(format!("{own} imports {other}, which is above it")),
        (_, None) => Some(format!("{own} imports {other} from the root, which is in no layer")),
    }
}

/// The modules at the root of the library that a file names: after `crate::` (in a program, after `backpack::`), or after
/// as many `super::` as lead there.
fn imported_modules(tokens: &[Token<'_>], module: &[&str]) -> Vec<(usize, String)> {
    let root = if module == ["bin"] { "backpack" } else { "crate" };
    let mut found = Vec::new();
    let mut depth = Depth::default();
    let mut at = 0;
    while at < tokens.len() {
        depth.see(tokens, at);
        let mut supers = 0;
        while tokens.get(at).is_some_and(|token| token.text == "super") && is_path(tokens, at) {
            supers += 1;
            at += 3;
        }
        let to_root = if supers > 0 {
            supers == module.len() + depth.inline_modules.len()
        } else if tokens[at].text == root && is_path(tokens, at) {
            at += 3;
            true
        } else {
            at += 1;
            continue;
        };
        if to_root {
            found.extend(names_at(tokens, at));
        }
    }
    found
}

/// Whether `::` follows.
fn is_path(tokens: &[Token<'_>], at: usize) -> bool {
    let is = |offset: usize, text: &str| tokens.get(at + offset).is_some_and(|token| token.text == text);
    is(1, ":") && is(2, ":")
}

/// The name at this place, or the first names of every branch of `{a::x, b}`.
fn names_at(tokens: &[Token<'_>], at: usize) -> Vec<(usize, String)> {
    let name = |token: &Token<'_>| (token.line, token.text.to_owned());
    let Some(first) = tokens.get(at) else { return Vec::new() };
    if first.text != "{" {
        return vec![name(first)];
    }
    let mut names = Vec::new();
    let mut open = 0;
    let mut starts_branch = true;
    for token in &tokens[at..] {
        match token.text {
            "{" => open += 1,
            "}" => open -= 1,
            "," => starts_branch |= open == 1,
            _ if open == 1 && starts_branch => {
                names.push(name(token));
                starts_branch = false;
            }
            _ => {}
        }
        if open == 0 {
            break;
        }
    }
    names
}

/// Whether a word is a crate here: the start of a path or of a `use`, and not a module declared or reached through another.
fn names_a_crate(tokens: &[Token<'_>], at: usize) -> bool {
    let before = |offset: usize| at.checked_sub(offset).map_or("", |at| tokens[at].text);
    let starts_path = before(1) != ":" || before(2) != ":";
    // `pub use redis::RedisQueue` beside `mod redis` means the module.
    let name = tokens[at].text;
    let is_module = tokens.windows(2).any(|pair| pair[0].text == "mod" && pair[1].text == name);
    starts_path && !is_module && (is_path(tokens, at) || before(1) == "use")
}

/// Which inline modules (`mod tests { .. }`) the walk is inside of.
#[derive(Default)]
struct Depth {
    braces: usize,
    /// The number of open braces outside of each.
    inline_modules: Vec<usize>,
}

impl Depth {
    fn see(&mut self, tokens: &[Token<'_>], at: usize) {
        match tokens[at].text {
            "{" => {
                if at >= 2 && tokens[at - 2].text == "mod" {
                    self.inline_modules.push(self.braces);
                }
                self.braces += 1;
            }
            "}" => {
                self.braces = self.braces.saturating_sub(1);
                if self.inline_modules.last() == Some(&self.braces) {
                    self.inline_modules.pop();
                }
            }
            _ => {}
        }
    }
}
