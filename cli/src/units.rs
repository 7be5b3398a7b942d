//! Sizes, times and counts for people.

use std::time::Duration;

/// `17 B`, `4.2 KB`, `540.0 MB`.
pub fn bytes(n: u64) -> String {
    scaled(n as f64, &[" B", " KB", " MB", " GB", " TB"], n)
}

/// `17`, `4.2 K`, `540.0 M`.
pub fn count(n: u64) -> String {
    scaled(n as f64, &["", " K", " M", " G", " T"], n)
}

fn scaled(value: f64, units: &[&str], exact: u64) -> String {
    if exact < 1000 {
        return format!("{exact}{}", units[0]);
    }
    let mut value = value;
    let mut at = 0;
    while value >= 999.95 && at + 1 < units.len() {
        value /= 1000.0;
        at += 1;
    }
    format!("{value:.1}{}", units[at])
}

/// `850 us`, `12.3 ms`, `4.56 s`.
pub fn time(d: Duration) -> String {
    let seconds = d.as_secs_f64();
    match seconds {
        s if s >= 1.0 => format!("{s:.2} s"),
        s if s >= 1e-3 => format!("{:.1} ms", s * 1e3),
        s => format!("{:.0} us", s * 1e6),
    }
}

/// Milliseconds with microseconds behind the point.
pub fn milliseconds(d: Duration) -> f64 {
    (d.as_secs_f64() * 1e6).round() / 1e3
}

/// `1 node`, `2 nodes`.
pub fn plural(n: usize, word: &str) -> String {
    format!("{n} {word}{}", if n == 1 { "" } else { "s" })
}

/// Units of work per second; 0 where nothing was measured.
pub fn rate(n: usize, d: Duration) -> f64 {
    if d.is_zero() { 0.0 } else { n as f64 / d.as_secs_f64() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_round_to_the_next_unit() {
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1000), "1.0 KB");
        assert_eq!(bytes(999_990), "1.0 MB");
        assert_eq!(count(12), "12");
        assert_eq!(time(Duration::from_micros(1500)), "1.5 ms");
    }
}
