//! Suggests the known name that a misspelt one is closest to.

/// Names whose likeness is less than this are no help.
const ALIKE: f64 = 0.6;

/// The one of `known` that is most like `name`, if one is like it at all.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase();
    known
        .into_iter()
        .map(|known| (likeness(&name, &known.to_lowercase()), known))
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known)
}

/// `; did you mean …?`, or nothing if no name is near.
pub(crate) fn suggestion<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(name, known).map(|known| format!("; did you mean {known}?")).unwrap_or_default()
}

/// 1 for equal texts, 0 for those that have nothing in common: the number of letters to insert, drop, replace or swap with
/// their neighbour (optimal string alignment) as a share of the longer text.
fn likeness(a: &str, b: &str) -> f64 {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let longer = a.len().max(b.len());
    if longer == 0 {
        return 1.0;
    }
    // Rows of the table of distances between prefixes: that of `i - 2`, `i - 1` and `i` letters of `a`.
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = above[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut distance = replaced.min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                distance = distance.min(before[j - 2] + 1);
            }
            row.push(distance);
        }
        before = std::mem::replace(&mut above, row);
    }
    1.0 - above[b.len()] as f64 / longer as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_errors_find_their_name() {
        let known = ["linger.ms", "batch.size", "fetch.wait.max.ms", "fetch.max.bytes"];
        for (name, expected) in [
            ("lingr.ms", Some("linger.ms")),
            ("BATCH_SIZE", Some("batch.size")),
            ("fetch.wait.ms", Some("fetch.wait.max.ms")),
            ("zzz", None),
            ("", None),
        ] {
            assert_eq!(nearest(name, known), expected, "{name}");
        }
        assert!((likeness("ab", "ba") - 0.5).abs() < 1e-9);
        assert!((likeness("", "") - 1.0).abs() < 1e-9);
        assert_eq!(suggestion("lingr.ms", known), "; did you mean linger.ms?");
        assert_eq!(suggestion("zzz", known), "");
    }
}
