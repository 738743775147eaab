package store

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/usher-sh/usher"
)

// MemberFacts is what decides for one member at one instant.
type MemberFacts struct {
	Member      *usher.Member      // nil: unknown
	Groups      []string           // that the member is in, directly or through other groups
	Assignments []usher.Assignment // its own and those of its groups, without ended ones
	Roles       []usher.Role       // the customer's own
	Seats       []HeldSeat         // without invitations
	EnvRevision int64
	// CatalogRevision is of the catalogue in force at that instant; 0: none.
	CatalogRevision int64
}

// HeldSeat is a seat that a member holds.
type HeldSeat struct {
	Feature string
	Expires time.Time // zero: it does not end by itself
}

// factsText reads members, whose ids are the parameters of the list members, at
// the instant $3. recorded says which rows of a table ("m.", or "") are meant,
// taken which seats, and catalog which catalogue.
//
// The cross joins tell SQLite to find the groups first: without statistics it
// would walk through all of the customer.
func factsText(members string, recorded func(table string) string, taken, catalog string) string {
	return `
WITH RECURSIVE g(member, id) AS (
  SELECT holder, grp FROM membership WHERE customer = $2 AND env = $1 AND holder IN (` + members + `) AND is_group = 0 AND ` +
		recorded("") + `
  UNION
  SELECT g.member, m.grp FROM g CROSS JOIN membership m
    WHERE m.customer = $2 AND m.env = $1 AND m.holder = g.id AND m.is_group = 1 AND ` + recorded("m.") + `)
SELECT 0 AS part, '' AS member, '' AS id, '' AS body, revision AS n, ` + catalog + ` AS m FROM environment WHERE env = $1
UNION ALL SELECT 1, id, '', body, 0, 0 FROM member WHERE customer = $2 AND env = $1 AND id IN (` + members + `) AND ` + recorded("") + `
UNION ALL SELECT 2, member, id, '', 0, 0 FROM g
UNION ALL SELECT 3, holder, id, body, 0, 0 FROM assignment
  WHERE customer = $2 AND env = $1 AND holder IN (` + members + `) AND is_group = 0 AND ` + recorded("") + ` AND until_at > $3
UNION ALL SELECT 3, g.member, a.id, a.body, 0, 0 FROM g CROSS JOIN assignment a
  WHERE a.customer = $2 AND a.env = $1 AND a.holder = g.id AND a.is_group = 1 AND ` + recorded("a.") + ` AND a.until_at > $3
UNION ALL SELECT 4, '', id, body, 0, 0 FROM custom_role WHERE customer = $2 AND env = $1 AND ` + recorded("") + `
UNION ALL SELECT 5, holder, feature, '', expires_at, 0 FROM seat
  WHERE customer = $2 AND env = $1 AND holder IN (` + members + `) AND ` + taken + ` AND pending = 0
ORDER BY 1, 2, 3`
}

// factsNow reads members as recorded now.
func factsNow(members string) string {
	current := func(table string) string { return table + isCurrent }
	return factsText(members, current, `released_at = 0`, `catalog_revision`)
}

// factsThen reads members as known at a revision, which is a parameter.
func factsThen(members, revision string) string {
	then := func(table string) string { return wasCurrent(table, revision) }
	return factsText(members, then, `at <= $3 AND (released_at = 0 OR released_at > $3)`, catalogThen(revision))
}

// Facts reads what decides for members at an instant: as recorded now if asKnown is
// 0, else as known at that revision, with the seats of the instant. Every member
// has an entry, unknown ones too.
func (d Directory) Facts(ctx context.Context, members []string, at time.Time, asKnown int64) (_ map[string]*MemberFacts, err error) {
	defer wrap(&err, "read facts")
	all := make(map[string]*MemberFacts, len(members))
	for part := range slices.Chunk(members, 256) {
		if err := d.facts(ctx, part, at, asKnown, all); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func (d Directory) facts(ctx context.Context, members []string, at time.Time, asKnown int64, all map[string]*MemberFacts) error {
	// The last id fills the list up to one of three sizes: few texts, so that
	// compiled statements are found again.
	n := 1
	for n < len(members) {
		n *= 16
	}
	args := []any{string(d.env), d.customer, micros(at)}
	for i := range n {
		args = append(args, members[min(i, len(members)-1)])
	}
	text := factsNow(places(n, 4))
	if asKnown != 0 {
		args = append(args, asKnown)
		text = factsThen(places(n, 4), dollar(len(args)))
	}
	for _, id := range members {
		all[id] = &MemberFacts{}
	}
	rows, err := d.r.query(ctx, text, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	var environment MemberFacts
	var own []usher.Role
	for rows.Next() {
		var part, n, m int64
		var member, id, body string
		if err := rows.Scan(&part, &member, &id, &body, &n, &m); err != nil {
			return err
		}
		f := all[member]
		switch part {
		case 0:
			environment.EnvRevision, environment.CatalogRevision = n, m
		case 1:
			f.Member = &usher.Member{}
			err = json.Unmarshal([]byte(body), f.Member)
		case 2:
			f.Groups = append(f.Groups, id)
		case 3:
			f.Assignments, err = appendBody(f.Assignments, body)
		case 4:
			own, err = appendBody(own, body)
		case 5:
			f.Seats = append(f.Seats, HeldSeat{id, until(n)})
		}
		if err != nil {
			return fmt.Errorf("member %q of customer %q, stored row %q: %w", member, d.customer, id, err)
		}
	}
	for _, id := range members {
		f := all[id]
		f.EnvRevision, f.CatalogRevision, f.Roles = environment.EnvRevision, environment.CatalogRevision, own
	}
	return rows.Err()
}

// HasMembers reports which of the ids are members.
func (d Directory) HasMembers(ctx context.Context, ids []string) (_ map[string]bool, err error) {
	defer wrap(&err, "has members")
	return d.has(ctx, "member", ids)
}

// Member reads a member; NotFound if there is none.
func (d Directory) Member(ctx context.Context, id string) (_ usher.Member, err error) {
	defer wrap(&err, "read member")
	return item[usher.Member](ctx, d, "member", "member", ` AND id = $3`, id)
}

// Members reads members by id, after the given one.
func (d Directory) Members(ctx context.Context, after string, limit int) (_ []usher.Member, err error) {
	defer wrap(&err, "read members")
	return page[usher.Member](ctx, d, "member", ` AND id > $3`, "id", limit, after)
}

// MembersNamed reads the members with a user name, ignoring case; at most 10.
func (d Directory) MembersNamed(ctx context.Context, userName string) (_ []usher.Member, err error) {
	defer wrap(&err, "read members named")
	return page[usher.Member](ctx, d, "member", ` AND user_name <> '' AND user_name = $3`, "id", 10, strings.ToLower(userName))
}

// MembersOutside reads the members with an id in another system; at most 10.
func (d Directory) MembersOutside(ctx context.Context, externalID string) (_ []usher.Member, err error) {
	defer wrap(&err, "read members outside")
	return page[usher.Member](ctx, d, "member", ` AND external_id <> '' AND external_id = $3`, "id", 10, externalID)
}

// CountMembers returns how many members there are.
func (d Directory) CountMembers(ctx context.Context) (_ int64, err error) {
	defer wrap(&err, "count members")
	return d.count(ctx, "member")
}

// CustomersWithMember reads the customers that have a member of an id, at most
// limit, by id.
func (db *DB) CustomersWithMember(ctx context.Context, env usher.Environment, member string, limit int) (_ []string, err error) {
	defer wrap(&err, "read customers with member")
	return list(ctx, db, scanText, `SELECT customer FROM member WHERE id = $1 AND env = $2 AND recorded_until IS NULL ORDER BY customer
		LIMIT $3`, member, string(env), int64(limit))
}
