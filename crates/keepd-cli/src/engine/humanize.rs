//! Sizes as go-humanize writes them.

/// Writes a size as go-humanize does: units of 1000, one digit after the point below ten.
pub(crate) fn bytes(size: u64) -> String {
    const NAMES: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    if size < 10 {
        return format!("{size} B");
    }
    let mut unit = 1_u64;
    let mut name = 0;
    while size / unit >= 1000 {
        unit *= 1000;
        name += 1;
    }
    // Rounded to tenths, half up; a whole number from ten on shows no tenths.
    let tenths = (u128::from(size) * 10 + u128::from(unit) / 2) / u128::from(unit);
    if tenths < 100 {
        format!("{}.{} {}", tenths / 10, tenths % 10, NAMES[name])
    } else {
        // The library formats the value rounded to tenths once more, half to even.
        let (whole, tenth) = (tenths / 10, tenths % 10);
        let up = tenth > 5 || (tenth == 5 && whole % 2 == 1);
        format!("{} {}", whole + u128::from(up), NAMES[name])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_for_people() {
        for (size, text) in [
            (0, "0 B"),
            (9, "9 B"),
            (20_480, "20 kB"),
            (2_147_483_648, "2.1 GB"),
            (23_236_608, "23 MB"),
            (82_854_982, "83 MB"),
            (1_500, "1.5 kB"),
            (999, "999 B"),
        ] {
            assert_eq!(bytes(size), text);
        }
    }
}
