//! Numbers of several runs, and the table that compares two servers.

use std::collections::BTreeMap;

/// What one measurement gives, or the median of several.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Sample {
    /// Operations per second.
    pub(crate) rate: f64,
    /// Latencies in microseconds.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    /// Microseconds of CPU the servers used for one operation.
    pub(crate) cpu: f64,
    /// Operations that failed.
    pub(crate) errors: u64,
}

/// One row: members, clients, operation.
pub(crate) type Cell = (usize, usize, String);

/// The samples of all servers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    samples: BTreeMap<(Cell, &'static str), Vec<Sample>>,
    memory: BTreeMap<&'static str, Vec<f64>>,
}

impl Report {
    pub(crate) fn add(&mut self, cell: Cell, server: &'static str, sample: Sample) {
        self.samples.entry((cell, server)).or_default().push(sample);
    }

    pub(crate) fn add_memory(&mut self, server: &'static str, bytes: u64) {
        self.memory.entry(server).or_default().push(bytes as f64);
    }

    fn median(&self, cell: &Cell, server: &'static str) -> Option<Sample> {
        let samples = self.samples.get(&(cell.clone(), server))?;
        let of = |field: fn(&Sample) -> f64| median(samples.iter().map(field).collect());
        Some(Sample {
            rate: of(|s| s.rate)?,
            p50: of(|s| s.p50)?,
            p99: of(|s| s.p99)?,
            cpu: of(|s| s.cpu)?,
            errors: samples.iter().map(|s| s.errors).sum(),
        })
    }

    /// The table: medians, and ratios in which more than 1 means that Quorate is better.
    pub(crate) fn render(&self, order: &[Cell]) -> String {
        let mut text = String::from(
            "members clients op    |  etcd op/s  p50 us  p99 us cpu us | quorate op/s p50 us  p99 us cpu us | \
             ratio: op/s   p50   p99   cpu\n",
        );
        for cell in order {
            let (members, clients, op) = cell;
            let (etcd, ours) = (self.median(cell, "etcd"), self.median(cell, "quorate"));
            text += &format!("{members:7} {clients:7} {op:5} | {} | {} |", columns(etcd), columns(ours));
            if let (Some(e), Some(q)) = (etcd, ours) {
                let ratios = [q.rate / e.rate, e.p50 / q.p50, e.p99 / q.p99, e.cpu / q.cpu];
                text += &format!("       {:5.2} {:5.2} {:5.2} {:5.2}", ratios[0], ratios[1], ratios[2], ratios[3]);
                if e.errors + q.errors > 0 {
                    text += &format!("  (errors: etcd {}, quorate {})", e.errors, q.errors);
                }
            }
            text.push('\n');
        }
        let memory = |server| self.memory.get(server).cloned().and_then(median);
        let shown = |bytes: Option<f64>| bytes.map_or("-".to_owned(), |b| format!("{:.1} MiB", b / 1_048_576.0));
        let (etcd, ours) = (memory("etcd"), memory("quorate"));
        if etcd.is_some() || ours.is_some() {
            text += &format!("memory: etcd {}, quorate {}", shown(etcd), shown(ours));
            if let (Some(e), Some(q)) = (etcd, ours) {
                text += &format!(", ratio {:.2}", e / q);
            }
            text.push('\n');
        }
        text
    }
}

fn columns(sample: Option<Sample>) -> String {
    match sample {
        Some(s) => format!("{:10.0} {:7.0} {:7.0} {:6.1}", s.rate, s.p50, s.p99, s.cpu),
        None => format!("{:>10} {:>7} {:>7} {:>6}", "-", "-", "-", "-"),
    }
}

/// The middle of `values`, or of the two in the middle their mean.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => None,
        n if n % 2 == 1 => Some(values[n / 2]),
        n => Some((values[n / 2 - 1] + values[n / 2]) / 2.0),
    }
}

/// The value below which `share` percent of `sorted` lie.
pub(crate) fn percentile(sorted: &[u32], share: usize) -> f64 {
    match sorted {
        [] => 0.0,
        _ => f64::from(sorted[(sorted.len() * share / 100).min(sorted.len() - 1)]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_percentiles() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(vec![]), None);
        let sorted: Vec<u32> = (1..=100).collect();
        assert_eq!((percentile(&sorted, 50), percentile(&sorted, 99)), (51.0, 100.0));
        assert_eq!(percentile(&[7], 99), 7.0);
    }

    #[test]
    fn ratios_above_one_mean_that_quorate_is_better() {
        let mut report = Report::default();
        let cell: Cell = (3, 64, "put".to_owned());
        report.add(cell.clone(), "etcd", Sample { rate: 100.0, p50: 10.0, p99: 40.0, cpu: 50.0, errors: 0 });
        report.add(cell.clone(), "quorate", Sample { rate: 250.0, p50: 5.0, p99: 80.0, cpu: 25.0, errors: 0 });
        report.add_memory("etcd", 3 << 20);
        report.add_memory("quorate", 2 << 20);
        let text = report.render(&[cell]);
        assert!(text.contains("        2.50  2.00  0.50  2.00"), "{text}");
        assert!(text.contains("memory: etcd 3.0 MiB, quorate 2.0 MiB, ratio 1.50"), "{text}");
    }
}
