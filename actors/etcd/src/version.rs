//! Versions of etcd, and which of them have faults that are known.

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(u32, u32, u32);

impl Version {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(['.', '-', '+']).map(str::parse);
        Some(Self(parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?))
    }

    /// Older than the gateway's protocol.
    pub(crate) fn is_too_old(self) -> bool {
        self < Self(3, 4, 0)
    }

    pub(crate) fn has_known_faults(self) -> bool {
        self < Self(3, 5, 23) || (self >= Self(3, 6, 0) && self < Self(3, 6, 5))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_with_known_faults_are_known() {
        let faulty = |text| Version::parse(text).map(Version::has_known_faults);
        for (text, expected) in [("3.4.23", true), ("3.5.22", true), ("3.5.23", false), ("3.6.0", true)] {
            assert_eq!(faulty(text), Some(expected), "{text}");
        }
        assert_eq!((faulty("3.6.5"), faulty("3.7.0-rc.1"), faulty("four")), (Some(false), Some(false), None));
        assert!(Version::parse("3.3.9").unwrap().is_too_old() && !Version::parse("3.4.0").unwrap().is_too_old());
    }
}
