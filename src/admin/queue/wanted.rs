//! Which tasks or dead letters an operator means.

use crate::{
    admin::misuse::Misuse,
    model::{Key, ServerId},
    queue::Filter,
};

/// Tasks, by what they are about.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Tasks {
    /// Only those of this target server
    #[arg(long, env = "BACKPACK_QUEUE_TARGET", value_name = "SERVER")]
    target: Option<ServerId>,
    /// Only those of this key (as listed: without the slash in front)
    #[arg(long, env = "BACKPACK_QUEUE_KEY", value_name = "KEY")]
    key: Option<Key>,
}

/// Dead letters, by what they are about or by name.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Letters {
    #[command(flatten)]
    tasks: Tasks,
    /// Only this dead letter
    #[arg(long, env = "BACKPACK_QUEUE_ID", value_name = "ID")]
    id: Option<String>,
}

/// Dead letters that something is done to: some of them, or all of them when that is said.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct SomeLetters {
    #[command(flatten)]
    letters: Letters,
    /// All of them
    #[arg(
        long,
        env = "BACKPACK_QUEUE_ALL",
        value_parser = clap::builder::BoolishValueParser::new(),
        conflicts_with_all = ["target", "key", "id"]
    )]
    all: bool,
}

impl Tasks {
    /// As the queue takes it.
    pub fn filter(&self) -> Filter {
        Filter { target: self.target.clone(), key: self.key.clone(), id: None }
    }
}

impl Letters {
    /// As the queue takes it.
    pub fn filter(&self) -> Filter {
        Filter { id: self.id.clone(), ..self.tasks.filter() }
    }
}

impl SomeLetters {
    /// As the queue takes it. Nobody is taken to mean all of them by saying nothing.
    pub fn filter(&self) -> Result<Filter, Misuse> {
        let filter = self.letters.filter();
        if filter == Filter::default() && !self.all {
            return Err(Misuse("say which dead letters are meant: --target, --key, --id, or --all".into()));
        }
        Ok(filter)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        some: SomeLetters,
    }

    fn parse(args: &[&str]) -> Option<Filter> {
        let program = Program::try_parse_from([&["program"], args].concat()).ok()?;
        program.some.filter().ok()
    }

    #[test]
    fn doing_something_to_all_of_them_must_be_said() {
        assert_eq!(parse(&[]), None);
        assert_eq!(parse(&["--all"]), Some(Filter::default()));
        assert_eq!(parse(&["--all", "--target", "4"]), None, "which of them?");
        let filter = parse(&["--target", "4", "--key", "a/b?x", "--id", "7f"]).unwrap();
        assert_eq!(filter.target, Some("4".parse().unwrap()));
        assert_eq!(filter.key, Some("a/b?x".parse().unwrap()));
        assert_eq!(filter.id.as_deref(), Some("7f"));
    }
}
