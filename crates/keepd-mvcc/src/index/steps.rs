//! Counts the steps of operations on the index, so that tests can tell what grows with the data.

#[cfg(test)]
thread_local! {
    static STEPS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// Counts entries that were looked at, copied or moved.
#[cfg(test)]
pub(crate) fn count(steps: usize) {
    STEPS.with(|it| it.set(it.get() + steps as u64));
}

#[cfg(not(test))]
pub(crate) const fn count(_steps: usize) {}

/// The number of steps that this thread takes for `run`.
#[cfg(test)]
pub(crate) fn of<T>(run: impl FnOnce() -> T) -> (T, u64) {
    let before = STEPS.with(std::cell::Cell::get);
    let result = run();
    (result, STEPS.with(std::cell::Cell::get) - before)
}
