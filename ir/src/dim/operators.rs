//! `+ - *` for `Dim` and `&Dim` in all combinations and with `i64`, negation, sums, products, conversions.

use std::iter::{Product, Sum};
use std::ops::{Add, Mul, Neg, Sub};

use super::Dim;

macro_rules! operator {
    ($trait:ident, $method:ident, $body:expr) => {
        operator!(@one $trait, $method, $body, Dim, Dim, |r: &Dim| r.clone());
        operator!(@one $trait, $method, $body, &Dim, Dim, |r: &Dim| r.clone());
        operator!(@one $trait, $method, $body, Dim, &Dim, |r: &&Dim| (*r).clone());
        operator!(@one $trait, $method, $body, &Dim, &Dim, |r: &&Dim| (*r).clone());
        operator!(@one $trait, $method, $body, Dim, i64, |r: &i64| Dim::constant(*r));
        operator!(@one $trait, $method, $body, &Dim, i64, |r: &i64| Dim::constant(*r));
    };
    (@one $trait:ident, $method:ident, $body:expr, $left:ty, $right:ty, $dim:expr) => {
        impl $trait<$right> for $left {
            type Output = Dim;
            fn $method(self, right: $right) -> Dim {
                let body: fn(&Dim, &Dim) -> Dim = $body;
                body(&self, &($dim)(&right))
            }
        }
    };
}

operator!(Add, add, |left, right| left.plus(right));
operator!(Sub, sub, |left, right| left.plus(&right.scaled(-1)));
operator!(Mul, mul, |left, right| left.times(right));

impl Neg for &Dim {
    type Output = Dim;
    fn neg(self) -> Dim {
        self.scaled(-1)
    }
}

impl Neg for Dim {
    type Output = Dim;
    fn neg(self) -> Dim {
        self.scaled(-1)
    }
}

impl Sum for Dim {
    fn sum<I: Iterator<Item = Dim>>(dims: I) -> Dim {
        dims.fold(Dim::constant(0), |sum, dim| sum.plus(&dim))
    }
}

impl<'a> Sum<&'a Dim> for Dim {
    fn sum<I: Iterator<Item = &'a Dim>>(dims: I) -> Dim {
        dims.fold(Dim::constant(0), |sum, dim| sum.plus(dim))
    }
}

impl Product for Dim {
    fn product<I: Iterator<Item = Dim>>(dims: I) -> Dim {
        dims.fold(Dim::constant(1), |product, dim| product.times(&dim))
    }
}

impl<'a> Product<&'a Dim> for Dim {
    fn product<I: Iterator<Item = &'a Dim>>(dims: I) -> Dim {
        dims.fold(Dim::constant(1), |product, dim| product.times(dim))
    }
}

impl From<i64> for Dim {
    fn from(n: i64) -> Dim {
        Dim::constant(n)
    }
}

impl From<i32> for Dim {
    fn from(n: i32) -> Dim {
        Dim::constant(n.into())
    }
}

/// A size beyond `i64::MAX` becomes unbounded.
impl From<usize> for Dim {
    fn from(n: usize) -> Dim {
        Dim::constant(i64::try_from(n).unwrap_or(i64::MAX))
    }
}
