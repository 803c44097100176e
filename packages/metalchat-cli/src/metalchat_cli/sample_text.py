"""A text to measure models with, where a person gives none: plain English that no model has been trained on."""

SAMPLE = """\
The ferry to the island runs four times a day in summer and twice in winter, unless the wind comes from the north.
Then the captain stands at the end of the pier, looks at the water for a minute, and goes back to his coffee. Nobody
complains. The shop on the island keeps flour, lamp oil and tinned fish for three weeks, and the school has enough
books for a year.

Marta has carried the post across for eleven years. She knows who is waiting for a letter and who is afraid of one,
and she has learned to knock twice at the doors where people are old and slow. On Tuesdays she brings the newspapers,
on Fridays the parcels. Once, in a February when the ice had closed the harbour, she walked over with a sledge and a
dog, and it took her five hours. The doctor's medicine was in the bag, so there was not much to discuss.

A small telephone mast stands on the hill behind the church. It was built to last twenty years and has done so for
thirty. When it fails, a technician from the mainland climbs up with a box of spare parts, replaces the one that has
rusted, and writes the date on the inside of the door. The list is long by now. The first entries are in pencil and
can hardly be read; the latest say only what was changed and what the weather was like.

How does a place like this decide anything? There is a meeting on the first Sunday of the month. Whoever has a
question writes it on the blackboard before the meeting begins, and the questions are answered from top to bottom. If
there are more than ten, the rest must wait. Last spring the most important one was whether to repair the old pump or
to buy a new one. The old pump uses 3.5 kilowatts, the new one would use 1.2, and it would cost as much as the ferry
earns in a season. They counted hands: 41 for the new pump, 17 for the old one, and 6 who had gone outside to look at
a seal.

In the evening the lights go on one after another, first at the harbour, then along the only road, and last in the
house at the lighthouse, where a painter lives who has never sold a picture and does not seem to mind. If you ask her
what she is working on, she says that it is the same as always: the sea, the sky, and the line between them, which is
harder than it looks.
"""
