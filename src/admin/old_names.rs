//! The original's commands were programs of their own. Through links with their names this program answers to them:
//! `backpack-coordinator-add-server ...` is `backpack-admin add-server ...`.

use std::{ffi::OsString, path::Path};

use clap::error::ErrorKind;

/// What the original's names begin with.
const PREFIX: &str = "backpack-coordinator-";

/// The original's commands: the rest of their name, ours, and the words of their arguments.
const COMMANDS: [(&str, &str, &str); 8] = [
    ("init", "coordinator-init", "<zk_servers> </zk/root> <queue_key> <redis_host1:redis_port1,...>"),
    ("add-server", "add-server", "<zk_servers> </zk/root> <id> <url>"),
    ("add-shard", "add-shard", "<zk_servers> </zk/root> <id> <node1,node2,node3,..> <size (ex: 100gb)>"),
    ("enable-shard", "enable-shard", "<zk_servers> </zk/root> <id>"),
    ("disable-shard", "disable-shard", "<zk_servers> </zk/root> <id>"),
    ("set-queue", "set-queue", "<zk_servers> </zk/root> <key> <host1:port1,host2:port2,..>"),
    ("dump-shards", "dump-shards", "<zk_servers> </zk/root>"),
    ("print-stats", "print-stats", "<zk_servers> </zk/root>"),
];

/// A call in our own words.
pub struct Call {
    /// The arguments, the program's name first.
    pub args: Vec<OsString>,
    /// What the original says of a call that makes no sense; `None` if the program was called by its own name.
    pub usage: Option<String>,
}

/// Reads under which name the program was called.
pub fn translate(args: Vec<OsString>) -> Call {
    let name = args.first().and_then(|program| Path::new(program).file_name()?.to_str());
    let old = name.and_then(|name| name.strip_prefix(PREFIX)).unwrap_or_default();
    let Some((_, command, words)) = COMMANDS.iter().find(|(rest, ..)| *rest == old) else {
        return Call { args, usage: None };
    };
    let usage = format!("Usage: {PREFIX}{old} {words}");
    let own = ["backpack-admin", command].map(OsString::from);
    Call { args: own.into_iter().chain(args.into_iter().skip(1)).collect(), usage: Some(usage) }
}

/// The original's sentence, and below it what is wrong where that is not plain: it only counted the arguments.
pub fn complaint(usage: &str, error: &clap::Error) -> String {
    match error.kind() {
        ErrorKind::MissingRequiredArgument => usage.to_owned(),
        _ => format!("{usage}\n{}", error.to_string().lines().next().unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(words: &str) -> Call {
        translate(words.split(' ').map(OsString::from).collect())
    }

    #[test]
    fn links_by_the_old_names_are_the_commands() {
        let old = call("/opt/bin/backpack-coordinator-add-server zk /b 1 http://one");
        assert_eq!(old.args, call("backpack-admin add-server zk /b 1 http://one").args);
        assert_eq!(
            old.usage.unwrap(),
            "Usage: backpack-coordinator-add-server <zk_servers> </zk/root> <id> <url>"
        );
        assert_eq!(call("backpack-coordinator-init").args[1], "coordinator-init");
    }

    #[test]
    fn other_names_are_left_alone() {
        for name in ["backpack-admin", "backpack-coordinator", "backpack-coordinator-x", "x"] {
            let call = call(&format!("{name} add-server"));
            assert!(call.usage.is_none() && call.args[0] == *name);
        }
    }

    #[test]
    fn every_old_command_is_one_of_ours() {
        let program = super::super::cli::program();
        for (_, command, _) in COMMANDS {
            assert!(program.find_subcommand(command).is_some(), "{command}");
        }
    }
}
