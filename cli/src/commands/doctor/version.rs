//! Versions as kernels and runtimes write them.

use std::fmt;

/// Major, minor and patch number; missing ones are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32, pub u32);

impl Version {
    /// `6.18.3-arch1`, `7.2`, `7.2.1-85`.
    pub fn parse(text: &str) -> Option<Self> {
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let mut parts = text[..end].split('.').map(|part| part.parse().ok());
        let major = parts.next()??;
        let mut next = || parts.next().flatten().unwrap_or(0);
        Some(Self(major, next(), next()))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

#[cfg(test)]
mod tests {
    use super::Version;

    #[test]
    fn reads_and_compares() {
        assert_eq!(Version::parse("6.18.3-arch1"), Some(Version(6, 18, 3)));
        assert_eq!(Version::parse("7.2"), Some(Version(7, 2, 0)));
        assert_eq!(Version::parse("6.19-rc1"), Some(Version(6, 19, 0)));
        assert_eq!([Version::parse(""), Version::parse("x1"), Version::parse(".5")], [None; 3]);
        assert!(Version(6, 9, 40) < Version(6, 18, 0) && Version(7, 2, 0) < Version(7, 2, 1));
    }
}
