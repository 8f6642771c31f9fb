# One line per target; everything happens in `cargo xtask`, whose --help is the reference.
.PHONY: image run test check bench
image: ; @cargo xtask doctor --fix && cargo xtask build
run: image ; @cargo xtask run
test: ; @cargo xtask doctor --fix --checks && cargo xtask test --checks
check: ; @cargo xtask doctor --fix --checks && cargo xtask check
bench: ; @cargo xtask doctor --fix && cargo xtask bench
