//! Tables drawn with lines: upper-case centred titles, cells to the right.

use std::fmt::Write as _;

/// Draws a table.
#[must_use]
pub fn draw(titles: &[&str], rows: &[Vec<String>]) -> String {
    let titles: Vec<String> = titles.iter().map(|title| title_of(title)).collect();
    let widths: Vec<usize> = titles
        .iter()
        .enumerate()
        .map(|(column, title)| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.max().unwrap_or(0).max(title.chars().count())
        })
        .collect();
    let mut out = String::new();
    line(&widths, ['\u{250c}', '\u{252c}', '\u{2510}'], &mut out);
    let centred = titles.iter().zip(&widths).map(|(title, &width)| format!("{title:^width$}"));
    cells(centred, &mut out);
    line(&widths, ['\u{251c}', '\u{253c}', '\u{2524}'], &mut out);
    for row in rows {
        cells(row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:>width$}")), &mut out);
    }
    line(&widths, ['\u{2514}', '\u{2534}', '\u{2518}'], &mut out);
    out
}

fn title_of(title: &str) -> String {
    title.replace('_', " ").to_uppercase()
}

fn line(widths: &[usize], [left, middle, right]: [char; 3], out: &mut String) {
    out.push(left);
    for (column, width) in widths.iter().enumerate() {
        if column > 0 {
            out.push(middle);
        }
        out.extend(std::iter::repeat_n('\u{2500}', width + 2));
    }
    out.push(right);
    out.push('\n');
}

fn cells(cells: impl Iterator<Item = String>, out: &mut String) {
    for cell in cells {
        write!(out, "\u{2502} {cell} ").expect("a string takes everything");
    }
    out.push_str("\u{2502}\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_are_centred_and_cells_stand_right() {
        let drawn = draw(&["ID", "hash_revision"], &[vec!["abcdef".to_owned(), "7".to_owned()]]);
        let expected = "\
\u{250c}\u{2500}\u{2500}\u{2500}\u{2500}\u{2500}\u{2500}\u{2500}\u{2500}\u{252c}\
\u{2500}\u{2500}\u{2500}\u{2500}\u{2500}\u{2500}\u{2500}\u{2500}\u{2500}\u{2500}\
\u{2500}\u{2500}\u{2500}\u{2500}\u{2500}\u{2510}
\u{2502}   ID   \u{2502} HASH REVISION \u{2502}\n";
        assert!(drawn.starts_with(expected), "{drawn}");
        assert!(drawn.contains("\u{2502} abcdef \u{2502}             7 \u{2502}\n"), "{drawn}");
    }
}
