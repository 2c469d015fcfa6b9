//! Which library this is.

/// The version of the interface that this header describes.
pub const RINGPORT_VERSION_MAJOR: u32 = 0;
/// Raised with each change that programs have to follow, as long as the major version is 0.
pub const RINGPORT_VERSION_MINOR: u32 = 1;
/// Raised with each other change.
pub const RINGPORT_VERSION_PATCH: u32 = 0;

/// The version of the library that is loaded: `major << 16 | minor << 8 | patch`. As long as the major version is 0, the
/// minor one has to be that of the header.
#[unsafe(no_mangle)]
pub extern "C" fn ringport_version() -> u32 {
    RINGPORT_VERSION_MAJOR << 16 | RINGPORT_VERSION_MINOR << 8 | RINGPORT_VERSION_PATCH
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_that_of_the_package() {
        let version =
            format!("{RINGPORT_VERSION_MAJOR}.{RINGPORT_VERSION_MINOR}.{RINGPORT_VERSION_PATCH}");
        assert_eq!(version, env!("CARGO_PKG_VERSION"));
        assert_eq!(ringport_version(), 0x000100);
    }
}
