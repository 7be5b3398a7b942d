 J€k†_EiFVÏoEÁ£UF»ME§ûÅÙehE3Î›Eû×BÅf	Æ›ˆ EdR²C…	ÃEl½Å÷Ó-Æ?¼E ñÅ;êDóñÑÄ´ÇpÅÑ{=ÄwÆWF½û(FÓZGFà1Å|¤Eðˆ×E2ŒÆŒëEá
ÇÅdmeFYNŽÄk†_EiFVÏoEÁ£UF»ME§ûÅÙehE3Î›Eû×BÅf	Æ›ˆ EdR²C…	ÃEl½Å÷Ó-Æ?¼E ñÅ;êDóñÑÄ´ÇpÅÑ{=ÄwÆWF½û(FÓZGFà1Å|¤Eðˆ×E2ŒÆŒëEá
ÇÅdmeFYNŽÄk†_EiFVÏoEÁ£UF»ME§ûÅÙehE3Î›Eû×BÅf	Æ›ˆ EdR²C…	ÃEl½Å÷Ó-Æ?¼E ñÅ;êDóñÑÄ´ÇpÅÑ{=ÄwÆWF½û(FÓZGFà1Å|¤Eðˆ×E2ŒÆŒëEá
ÇÅdmeFYNŽÄk†_EiFVÏoEÁ£UF»ME§ûÅÙehE3Î›Eû×BÅf	Æ›ˆ EdR²C…	ÃEl½Å÷Ó-Æ?¼E ñÅ;êDóñÑÄ´ÇpÅÑ{=ÄwÆWF½û(FÓZGFà1Å|¤Eðˆ×E2ŒÆŒëEá
ÇÅdmeFYNŽÄ