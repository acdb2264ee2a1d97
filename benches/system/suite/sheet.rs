//! The table. A line is printed as soon as it is known: all of them take minutes.

#[path = "../../shared/machine.rs"]
mod machine;

use super::line::Line;

const HEADINGS: [&str; 9] =
    ["COMPARED", "UNIT", "OURS", "PEER", "RATIO OR DIFFERENCE", "CPU S", "PEER'S", "TARGET", "MET"];

/// Of the columns. The first two begin at the left.
const WIDTHS: [usize; 9] = [64, 9, 9, 9, 24, 7, 7, 9, 4];

/// A table that is being written.
pub struct Sheet {
    lines: Vec<Line>,
}

impl Sheet {
    /// Says what machine it is, and what the columns are.
    pub fn begin() -> Self {
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load = load.split(' ').next().unwrap_or_default();
        println!("{}; load before it {load}\n\n{}", machine::machine(), row(HEADINGS));
        Self { lines: Vec::new() }
    }

    /// A line more.
    pub fn add(&mut self, line: Line) {
        println!("{}", row(line.cells().each_ref().map(String::as_str)));
        self.lines.push(line);
    }

    /// Says how many targets are met, if there are any; its lines.
    pub fn end(self) -> Vec<Line> {
        let met: Vec<bool> = self.lines.iter().filter_map(Line::met).collect();
        if !met.is_empty() {
            println!("\n{} of {} targets are met", met.iter().filter(|met| **met).count(), met.len());
        }
        self.lines
    }
}

fn row(cells: [&str; 9]) -> String {
    let cell = |(at, (cell, width)): (usize, (&str, usize))| match at {
        0 | 1 => format!("{cell:<width$}"),
        _ => format!("{cell:>width$}"),
    };
    let cells: Vec<String> = cells.into_iter().zip(WIDTHS).enumerate().map(cell).collect();
    cells.join("  ").trim_end().to_owned()
}
