//! Tables in box-drawing characters.

/// A table with one line per row.
#[derive(Clone, Debug)]
pub struct Table {
    header: Vec<String>,
    /// Each as long as `header`.
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table with these columns.
    pub fn new(columns: &[&str]) -> Table {
        Table { header: columns.iter().map(|c| (*c).to_owned()).collect(), rows: Vec::new() }
    }

    /// Adds a row.
    ///
    /// # Panics
    /// If it has more or fewer cells than the table has columns.
    pub fn row(&mut self, cells: Vec<String>) {
        assert!(cells.len() == self.header.len(), "{} cells for {} columns", cells.len(), self.header.len());
        self.rows.push(cells);
    }

    /// The table's lines: centred header, cells set to the right.
    pub fn render(&self) -> String {
        let widths: Vec<usize> = (0..self.header.len())
            .map(|i| std::iter::once(&self.header).chain(&self.rows).map(|row| width(&row[i])).max().unwrap_or(0))
            .collect();
        let rule = |left, middle, right| {
            let bars: Vec<String> = widths.iter().map(|w| "─".repeat(w + 2)).collect();
            format!("{left}{}{right}\n", bars.join(middle))
        };
        let line = |cells: &[String], place: fn(&str, usize) -> String| {
            let cells: Vec<String> = cells.iter().zip(&widths).map(|(c, &w)| format!(" {} ", place(c, w))).collect();
            format!("│{}│\n", cells.join("│"))
        };
        let mut text = rule("┌", "┬", "┐") + &line(&self.header, centre) + &rule("├", "┼", "┤");
        for row in &self.rows {
            text += &line(row, right);
        }
        text + &rule("└", "┴", "┘")
    }
}

fn width(text: &str) -> usize {
    text.chars().count()
}

fn centre(text: &str, columns: usize) -> String {
    let free = columns - width(text);
    format!("{}{text}{}", " ".repeat(free / 2), " ".repeat(free - free / 2))
}

fn right(text: &str, columns: usize) -> String {
    format!("{}{text}", " ".repeat(columns - width(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_centred_and_cells_set_to_the_right() {
        let mut table = Table::new(&["ENDPOINT", "HASH", "HASH REVISION"]);
        table.row(vec!["127.0.0.1:23790".into(), "3930234371".into(), "23".into()]);
        let expected = "\
┌─────────────────┬────────────┬───────────────┐
│    ENDPOINT     │    HASH    │ HASH REVISION │
├─────────────────┼────────────┼───────────────┤
│ 127.0.0.1:23790 │ 3930234371 │            23 │
└─────────────────┴────────────┴───────────────┘
";
        assert_eq!(table.render(), expected);
    }
}
