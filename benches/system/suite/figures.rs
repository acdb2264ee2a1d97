//! One thing, measured several times.

use std::fmt;

/// The figures of all rounds, in their order.
#[derive(Debug, Clone, Default)]
pub struct Figures(Vec<f64>);

impl FromIterator<f64> for Figures {
    fn from_iter<I: IntoIterator<Item = f64>>(figures: I) -> Self {
        Self(figures.into_iter().collect())
    }
}

impl Figures {
    /// The figure in the middle.
    pub fn median(&self) -> f64 {
        let sorted = self.sorted();
        sorted[sorted.len() / 2]
    }

    /// Each figure with the other's of its round.
    pub fn with(&self, other: &Self, both: impl Fn(f64, f64) -> f64) -> Self {
        self.0.iter().zip(&other.0).map(|(one, other)| both(*one, *other)).collect()
    }

    /// The median, and the smallest and the largest if there are others.
    pub fn spread(&self) -> String {
        let sorted = self.sorted();
        match sorted.as_slice() {
            [only] => short(*only),
            [first, .., last] => format!("{} ({}..{})", short(self.median()), short(*first), short(*last)),
            [] => "-".to_owned(),
        }
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&short(self.median()))
    }
}

/// Three digits or all of a larger number.
pub fn short(figure: f64) -> String {
    match figure.abs() {
        100.0.. => format!("{figure:.0}"),
        10.0..100.0 => format!("{figure:.1}"),
        _ => format!("{figure:.2}"),
    }
}
