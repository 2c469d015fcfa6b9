//! Names in the record, and sizes and numbers as people write them.

use std::fmt::{self, Display};

/// A contender's name: `what@length/capacity`, the numbers in bytes and both optional.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    pub what: String,
    pub length: Option<u64>,
    pub capacity: Option<u64>,
}

impl Name {
    /// Takes a name apart. What does not have this form is a plain word.
    pub fn parse(text: &str) -> Self {
        let sized = || {
            let (what, sizes) = text.rsplit_once('@')?;
            let (length, capacity) = match sizes.split_once('/') {
                Some((length, capacity)) => (length, Some(capacity.parse().ok()?)),
                None => (sizes, None),
            };
            Some(Name {
                what: what.into(),
                length: Some(length.parse().ok()?),
                capacity,
            })
        };
        sized().unwrap_or_else(|| Name {
            what: text.into(),
            ..Name::default()
        })
    }
}

/// For people: `stream, 1 MiB, ring 8 MiB`.
impl Display for Name {
    fn fmt(&self, to: &mut fmt::Formatter) -> fmt::Result {
        write!(to, "{}", self.what)?;
        if let Some(length) = self.length {
            write!(to, ", {}", size(length))?;
        }
        if let Some(capacity) = self.capacity {
            write!(to, ", ring {}", size(capacity))?;
        }
        Ok(())
    }
}

/// Bytes as people write them: `48 B`, `1.5 KiB`, `16 MiB`.
pub fn size(bytes: u64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let Some((unit, name)) = units.into_iter().find(|&(unit, _)| bytes >= unit) else {
        return format!("{bytes} B");
    };
    if bytes.is_multiple_of(unit) {
        format!("{} {name}", bytes / unit)
    } else {
        format!("{:.1} {name}", bytes as f64 / unit as f64)
    }
}

/// A number with as many decimals as make three digits, at most two.
pub fn three_digits(number: f64) -> String {
    match number {
        ..9.995 => format!("{number:.2}"),
        ..99.95 => format!("{number:.1}"),
        _ => format!("{number:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart() {
        let name = |what: &str, length, capacity| Name {
            what: what.into(),
            length,
            capacity,
        };
        assert_eq!(Name::parse("line"), name("line", None, None));
        assert_eq!(Name::parse("pipe@4096"), name("pipe", Some(4096), None));
        assert_eq!(
            Name::parse("copied@1024/65536"),
            name("copied", Some(1024), Some(65536))
        );
        assert_eq!(Name::parse("odd@x"), name("odd@x", None, None));
        assert_eq!(
            Name::parse("stream@1048576/8388608").to_string(),
            "stream, 1 MiB, ring 8 MiB"
        );
    }

    #[test]
    fn sizes_read_well() {
        let sizes = [8, 1023, 1024, 1536, 65536, 1 << 20, 1 << 24, 1 << 30];
        assert_eq!(
            sizes.map(size),
            [
                "8 B", "1023 B", "1 KiB", "1.5 KiB", "64 KiB", "1 MiB", "16 MiB", "1 GiB"
            ]
        );
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [0.0312, 9.996, 12.34, 123.4].map(three_digits),
            ["0.03", "10.0", "12.3", "123"]
        );
    }
}
