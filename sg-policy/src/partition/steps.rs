//! Functions over numbers, as lists of steps: a value holds from its start up to the next start.

/// Appends a step, or changes the last one if it begins there too; equal neighbours become one.
pub(crate) fn set<T: PartialEq>(steps: &mut Vec<(T, u32)>, start: T, value: u32) {
    match steps.last_mut() {
        Some(last) if last.0 == start => last.1 = value,
        _ => steps.push((start, value)),
    }
    if let [.., before, last] = steps.as_slice()
        && before.1 == last.1
    {
        steps.pop();
    }
}
