"""The comparison finds every kind of difference: python -m unittest test_compare."""

import dataclasses
import unittest

from cases import Call, Failed
from compare import check_engine, check_receipts
from receipts import Receipt

WHOLE = Call("whole", "h1", "completed", 0, 40, (20, 4, 30))
QUIET = Call("without usage", "h2", "completed", 10, 40, None)
CUT = Call("hung up", "h3", "hung up", 5, 2000, None)
CALLS = [WHOLE, QUIET, CUT]


def line(prompt, cached, completion, aborted=False):
    return {"prompt_tokens": prompt, "cached_tokens": cached, "completion_tokens": completion,
            "aborted": aborted}


def engine():
    return {"h1": line(20, 4, 30), "h2": line(21, 0, 10), "h3": line(22, 0, 8, aborted=True)}


def receipt(hold, counts, flags=(), charged=50):
    return Receipt(hold, *counts, 100, charged, charged, 0, frozenset(flags))


def committed():
    return [receipt("h1", (20, 4, 30)), receipt("h2", (21, 0, 10)),
            receipt("h3", (25, 0, 6), ["counted"])]


class Engine(unittest.TestCase):
    def check(self, message, calls=None, **changes):
        log = {**engine(), **changes}
        with self.assertRaisesRegex(Failed, message):
            check_engine(calls or CALLS, {hold: entry for hold, entry in log.items() if entry})

    def test_agreement_passes(self):
        check_engine(CALLS, engine())

    def test_a_request_that_the_client_did_not_make(self):
        self.check("only in one", h4=line(1, 0, 1))

    def test_a_request_that_did_not_arrive(self):
        self.check("only in one", h2=None)

    def test_one_id_for_two_answers(self):
        self.check("two answers", calls=[WHOLE, dataclasses.replace(QUIET, hold="h1"), CUT])

    def test_other_counts_than_the_client_was_told(self):
        self.check("client", h1=line(20, 4, 31))
        self.check("client", h1=line(20, 0, 30))

    def test_an_engine_that_ran_on_after_the_hang_up(self):
        self.check("went on", h3=line(22, 0, 2000))
        self.check("generated 2000", h3=line(22, 0, 2000, aborted=True))


class Receipts(unittest.TestCase):
    def check(self, message, index, **changes):
        receipts = committed()
        receipts[index] = dataclasses.replace(receipts[index], **changes)
        with self.assertRaisesRegex(Failed, message):
            check_receipts(CALLS, engine(), receipts)

    def test_agreement_passes(self):
        check_receipts(CALLS, engine(), committed())

    def test_a_receipt_too_few_or_too_many_or_twice(self):
        for receipts in (committed()[1:], committed() + [receipt("h4", (1, 0, 1))],
                         committed() + committed()[:1]):
            with self.assertRaises(Failed):
                check_receipts(CALLS, engine(), receipts)

    def test_other_counts_than_the_engine(self):
        for count in ("input", "cached", "output"):
            self.check("engine", 1, **{count: 11})

    def test_an_estimate_where_the_engine_reported(self):
        self.check("flags", 1, flags=frozenset(["estimated"]))

    def test_a_free_request(self):
        self.check("for nothing", 1, cost=0, charged=0)

    def test_a_loss(self):
        self.check("a loss", 1, loss=1, charged=49)

    def test_a_cost_that_does_not_add_up(self):
        self.check("cost", 1, cost=51)

    def test_a_free_hang_up(self):
        self.check("charged 0", 2, output=0)
        self.check("charged 0", 2, cost=0, charged=0)

    def test_a_hang_up_charged_above_what_was_generated(self):
        self.check("charged 9", 2, output=9)

    def test_a_hang_up_charged_the_whole_hold(self):
        self.check("of a hold", 2, cost=100, charged=100)

    def test_a_hang_up_with_another_input_than_the_engine_told(self):
        told = dataclasses.replace(CUT, told_so_far=True)
        exact = receipt("h3", (22, 0, 6), ["counted"])
        check_receipts([told], {"h3": engine()["h3"]}, [exact])
        with self.assertRaisesRegex(Failed, "receipt"):
            guessed = dataclasses.replace(exact, input=25)
            check_receipts([told], {"h3": engine()["h3"]}, [guessed])

    def test_a_hang_up_without_a_flag(self):
        self.check("not flagged", 2, flags=frozenset())


if __name__ == "__main__":
    unittest.main()
