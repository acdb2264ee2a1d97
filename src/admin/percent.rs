//! How full something is, in whole percent.

use crate::model::map::ShardSize;

/// Rounded to the nearest whole percent, as the original does it; more than 100 when over-full. Where nothing fits at all
/// it is 100.
pub fn percent(size: ShardSize) -> u64 {
    if size.capacity == 0 {
        return 100;
    }
    let (used, capacity) = (u128::from(size.used), u128::from(size.capacity));
    u64::try_from((used * 100 + capacity / 2) / capacity).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percents_are_rounded() {
        let of = |used, capacity| percent(ShardSize { capacity, used });
        assert_eq!([of(0, 10), of(1, 3), of(2, 3), of(15, 10), of(0, 0)], [0, 33, 67, 150, 100]);
        assert_eq!(of(u64::MAX, u64::MAX), 100);
    }
}
