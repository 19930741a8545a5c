import unittest

from durations import parse, render


class ParseTest(unittest.TestCase):
    def test_one_unit(self):
        self.assertEqual(parse("45s"), 45)

    def test_several_units_add_up(self):
        self.assertEqual(parse("1h30m"), 5400)
        self.assertEqual(parse("2d 4h"), 187200)

    def test_what_is_not_a_duration_is_refused(self):
        for text in ["", "soon", "5", "1h and a bit"]:
            with self.subTest(text), self.assertRaises(ValueError):
                parse(text)


class RenderTest(unittest.TestCase):
    def test_reads_back(self):
        for seconds in [0, 59, 3600, 93784]:
            self.assertEqual(parse(render(seconds)), seconds)


if __name__ == "__main__":
    unittest.main()
