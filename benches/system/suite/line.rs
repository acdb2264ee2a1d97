//! A line of the table: what is compared, how, and what is wanted of it.

use super::{
    figures::{Figures, short},
    turns::{Round, Turns},
};

/// A line.
#[derive(Debug)]
pub struct Line {
    /// What is compared.
    pub what: String,
    /// Of the figures.
    pub unit: &'static str,
    /// Of our side.
    pub ours: Figures,
    /// Of the other side.
    pub peer: Option<Figures>,
    /// Our figure by the other's, or less the other's; ours where there is no other.
    pub compared: Figures,
    /// Seconds of processor time, of our servers and of the other's, in all rounds.
    pub cpu: [Option<f64>; 2],
    /// What is wanted.
    pub target: Option<Target>,
}

/// What is wanted of the median of what was compared.
#[derive(Debug, Clone, Copy)]
pub enum Target {
    /// It is this or more.
    AtLeast(f64),
    /// It is this or less.
    AtMost(f64),
}

impl Line {
    /// Our figure by the other's.
    pub fn ratio(what: String, unit: &'static str, turns: &Turns, of: impl Fn(&Round) -> f64) -> Self {
        Self::of_turns(what, unit, turns, of, |ours, peer| ours / peer)
    }

    /// Our figure less the other's.
    pub fn difference(what: String, unit: &'static str, turns: &Turns, of: impl Fn(&Round) -> f64) -> Self {
        Self::of_turns(what, unit, turns, of, |ours, peer| ours - peer)
    }

    /// Our figure by one that was measured elsewhere.
    pub fn by_constant(
        what: String,
        unit: &'static str,
        rounds: &[Round],
        of: impl Fn(&Round) -> f64,
        peer: f64,
    ) -> Self {
        let mut line = Self::alone(what, unit, rounds, of);
        let peer: Figures = rounds.iter().map(|_| peer).collect();
        line.compared = line.ours.with(&peer, |ours, peer| ours / peer);
        line.peer = Some(peer);
        line
    }

    /// What something takes, by what it may take.
    pub fn limited(what: String, unit: &'static str, taken: f64, limit: f64) -> Self {
        let figures = [taken, limit].map(|figure| Figures::from_iter([figure]));
        Self::beside(what, unit, figures, |taken, limit| taken / limit)
    }

    /// One figure that is of no turns.
    pub fn figure(what: String, unit: &'static str, figure: f64) -> Self {
        let ours = Figures::from_iter([figure]);
        Self { what, unit, compared: ours.clone(), ours, peer: None, cpu: [None, None], target: None }
    }

    /// Figures that are of no turns, and what they are compared with.
    pub fn beside(
        what: String,
        unit: &'static str,
        [ours, peer]: [Figures; 2],
        compare: impl Fn(f64, f64) -> f64,
    ) -> Self {
        let compared = ours.with(&peer, compare);
        Self { what, unit, ours, peer: Some(peer), compared, cpu: [None, None], target: None }
    }

    /// Our figure.
    pub fn alone(what: String, unit: &'static str, rounds: &[Round], of: impl Fn(&Round) -> f64) -> Self {
        let ours: Figures = rounds.iter().map(of).collect();
        let cpu = [Some(cpu(rounds)), None];
        Self { what, unit, compared: ours.clone(), ours, peer: None, cpu, target: None }
    }

    /// Wants this.
    pub fn target(mut self, target: Target) -> Self {
        self.target = Some(target);
        self
    }

    /// Whether what was wanted is met.
    pub fn met(&self) -> Option<bool> {
        let median = self.compared.median();
        Some(match self.target? {
            Target::AtLeast(least) => median >= least,
            Target::AtMost(most) => median <= most,
        })
    }

    fn of_turns(
        what: String,
        unit: &'static str,
        turns: &Turns,
        of: impl Fn(&Round) -> f64,
        compare: impl Fn(f64, f64) -> f64,
    ) -> Self {
        let mut line = Self::alone(what, unit, &turns.ours, &of);
        let peer: Figures = turns.peer.iter().map(of).collect();
        line.compared = line.ours.with(&peer, compare);
        line.peer = Some(peer);
        line.cpu[1] = Some(cpu(&turns.peer));
        line
    }

    /// What stands in the columns: what, unit, ours, the other's, compared, two processor times, target, met.
    pub fn cells(&self) -> [String; 9] {
        let seconds = |cpu: Option<f64>| cpu.map_or("-".to_owned(), |cpu| format!("{cpu:.1}"));
        let target = match self.target {
            None => String::new(),
            Some(Target::AtLeast(least)) => format!(">= {}", short(least)),
            Some(Target::AtMost(most)) => format!("<= {}", short(most)),
        };
        let met = self.met().map_or("", |met| if met { "yes" } else { "no" });
        [
            self.what.clone(),
            self.unit.to_owned(),
            self.ours.to_string(),
            self.peer.as_ref().map_or("-".to_owned(), Figures::to_string),
            self.compared.spread(),
            seconds(self.cpu[0]),
            seconds(self.cpu[1]),
            target,
            met.to_owned(),
        ]
    }
}

fn cpu(rounds: &[Round]) -> f64 {
    rounds.iter().map(|round| round.cpu_seconds).sum()
}
