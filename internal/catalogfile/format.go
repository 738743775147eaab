package catalogfile

import (
	"strconv"
	"strings"
)

// decimalText writes n smallest units with precision digits after the point:
// decimalText(1, 3) is "0.001".
func decimalText(n int64, precision int) string {
	if precision == 0 {
		return strconv.FormatInt(n, 10)
	}
	sign, u := "", uint64(n)
	if n < 0 {
		sign, u = "-", -u
	}
	s := strconv.FormatUint(u, 10)
	if missing := precision + 1 - len(s); missing > 0 {
		s = strings.Repeat("0", missing) + s
	}
	return sign + s[:len(s)-precision] + "." + s[len(s)-precision:]
}
