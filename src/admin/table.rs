//! Tables for people: columns set apart by blanks under their headings; nothing is wrapped or cut, so that `grep` and
//! `awk` find whole words.

use comfy_table::{CellAlignment, Table, presets::NOTHING};

/// Rows of cells as text. A heading that starts with `>` stands, with its column, at the right: numbers.
pub fn table(headings: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(headings.iter().map(|heading| heading.trim_start_matches('>')));
    for row in rows {
        table.add_row(row);
    }
    for (column, heading) in table.column_iter_mut().zip(headings) {
        column.set_padding((0, 2));
        if heading.starts_with('>') {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_set_apart_and_lines_end_with_text() {
        let rows = [vec!["a".to_owned(), "7".to_owned()], vec!["long name".to_owned(), "12".to_owned()]];
        assert_eq!(table(&["NAME", ">COUNT"], rows), "NAME       COUNT\na              7\nlong name     12");
    }
}
